"""Traces for OpenTelemetry: where the time of a request went, as a part of its caller's trace.

Owns: the spans of a request, and how they are sent (``spans``). The libraries for it are an extra;
they are imported only if traces are on. OpenTelemetry's own variables name the collector.
Does not own: the trace id in the log, see ``web.trace_context``.
"""

from typing import TYPE_CHECKING

from keyosk.errors import ConfigurationError, Fault

if TYPE_CHECKING:
    from keyosk.traces.spans import Tracing

__all__ = ["check", "start"]


def check() -> None:
    """Check that the libraries are installed. Raises ``ConfigurationError``."""
    try:
        from keyosk.traces import spans  # noqa: F401, PLC0415 - its libraries are an extra
    except ImportError as error:
        fault = "needs the extra opentelemetry: pip install 'keyosk[opentelemetry]'"
        raise ConfigurationError([Fault("KEYOSK_TRACES", fault)]) from error


def start(*, version: str, has_postgresql: bool) -> "Tracing":
    """Start to send traces. Raises ``ConfigurationError``.

    A thread sends them, and a fork does not inherit threads: call this in each process that sends.
    ``has_postgresql``: statements get spans, too.
    """
    check()
    from keyosk.traces.spans import Tracing  # noqa: PLC0415 - its libraries are an extra

    return Tracing(version=version, has_postgresql=has_postgresql)
