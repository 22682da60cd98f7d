"""Traces for OpenTelemetry: where the time of a request went, as a part of its caller's trace.

It owns what is told of a request and how it is sent (``spans``), by libraries that are an extra and
that nobody imports unless traces are on. It does not own the trace in the log, see
``web.trace_context``. Everything about the collector comes from OpenTelemetry's own variables.
"""

from typing import TYPE_CHECKING

from keyosk.errors import ConfigurationError, Fault

if TYPE_CHECKING:
    from keyosk.traces.spans import Tracing

__all__ = ["check", "start"]


def check() -> None:
    """Look whether the libraries are installed. Raises ``ConfigurationError``."""
    try:
        from keyosk.traces import spans  # noqa: F401, PLC0415 - its libraries are an extra
    except ImportError as error:
        fault = "needs the extra opentelemetry: pip install 'keyosk[opentelemetry]'"
        raise ConfigurationError([Fault("KEYOSK_TRACES", fault)]) from error


def start(*, version: str, has_postgresql: bool) -> "Tracing":
    """Begin to send traces, in the process that is to send them: a thread does, which no fork has.

    ``has_postgresql``: statements are told of, too. Raises ``ConfigurationError``.
    """
    check()
    from keyosk.traces.spans import Tracing  # noqa: PLC0415 - its libraries are an extra

    return Tracing(version=version, has_postgresql=has_postgresql)
