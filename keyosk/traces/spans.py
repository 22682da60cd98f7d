"""Spans of requests and of their statements, by OpenTelemetry's instrumentations, over OTLP.

SECURITY: the instrumentations record more than may leave this process: URLs with their queries,
headers, addresses, and the texts of exceptions, which may quote a row. So each span is rebuilt from
the fields listed here.
"""

import atexit
import threading
from typing import Final

from flask import Flask
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status

#: By both names that OpenTelemetry has had for them (OTEL_SEMCONV_STABILITY_OPT_IN).
_STATUS: Final = frozenset({"http.status_code", "http.response.status_code"})
_OF_REQUESTS: Final = _STATUS | {"http.method", "http.request.method", "http.route"}
# Statements have placeholders where values are.
_OF_STATEMENTS: Final = frozenset(
    {
        *("db.system", "db.system.name", "db.name", "db.namespace", "db.statement"),
        *("db.query.text", "db.operation.name", "net.peer.name", "net.peer.port"),
        *("server.address", "server.port", "error.type"),
    }
)
_UNNAMED: Final = "unknown_service"
#: Seconds to send the last spans when a process ends.
_LAST: Final = 3.0


class Tracing:
    """The traces of one process."""

    def __init__(self, *, version: str, has_postgresql: bool) -> None:
        resource = Resource.create()
        attributes = {SERVICE_VERSION: version}
        if str(resource.attributes.get(SERVICE_NAME, _UNNAMED)).startswith(_UNNAMED):
            attributes[SERVICE_NAME] = "keyosk"
        self._provider = TracerProvider(
            resource=resource.merge(Resource(attributes)), shutdown_on_exit=False
        )
        self._provider.add_span_processor(
            _Allowlist(OTLPSpanExporter(), meter_provider=NoOpMeterProvider())
        )
        if has_postgresql:
            # Its driver is an extra, and is imported by it.
            from opentelemetry.instrumentation.psycopg import (  # noqa: PLC0415
                PsycopgInstrumentor,
            )

            PsycopgInstrumentor().instrument(tracer_provider=self._provider)

        atexit.register(self._stop)

    def instrument(self, app: Flask) -> None:
        """Make each request of an application a span. Call it before the pipeline is added."""
        FlaskInstrumentor.instrument_app(  # type: ignore[no-untyped-call]
            app,
            tracer_provider=self._provider,
            meter_provider=NoOpMeterProvider(),
            enable_commenter=False,
        )

    def fields(self) -> dict[str, str]:
        """Return ``trace_id`` and ``span_id`` of the request of this context, if it has a span."""
        context = trace.get_current_span().get_span_context()
        if not context.is_valid:
            return {}
        return {
            "trace_id": trace.format_trace_id(context.trace_id),
            "span_id": trace.format_span_id(context.span_id),
        }

    def _stop(self) -> None:
        """Send the remaining spans, if the collector takes them soon."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(_LAST)


class _Allowlist(BatchSpanProcessor):
    """Sends only the allowed fields of each span."""

    def on_end(self, span: ReadableSpan) -> None:
        found, name = span.attributes or {}, span.name
        if span.kind is SpanKind.CLIENT:
            # Not of a request: Keyosk's own work in the background, every second.
            is_sent, kept = span.parent is not None, _OF_STATEMENTS
        else:
            # Without a status: the request began again in a thread, where it has another span.
            is_sent, kept = not _STATUS.isdisjoint(found), _OF_REQUESTS
            if "http.route" not in found:
                name = name.partition(" ")[0]  # only the method: the path may be anything
        if is_sent:
            super().on_end(
                ReadableSpan(
                    name,
                    context=span.context,
                    parent=span.parent,
                    resource=span.resource,
                    attributes={name: found[name] for name in kept & found.keys()},
                    kind=span.kind,
                    status=Status(span.status.status_code),
                    start_time=span.start_time,
                    end_time=span.end_time,
                    instrumentation_scope=span.instrumentation_scope,
                )
            )
