"""The options and hooks of `serve`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from keyosk.server.logs import JsonFormatter
from keyosk.server.tls import Certificate

Environ = dict[str, Any]
#: Starts something, as a function to call.
Start = Callable[[Callable[[], None]], object]


def _always() -> bool:
    return True


def _nothing(*_: object) -> None:
    """Do nothing; the default hook."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Listeners, threads, limits and deadlines. Times are seconds, sizes bytes; all per worker.

    A connection is open for at most `request_timeout` plus `drain_timeout` without having sent a
    whole request, and for `idle_timeout` between two.
    """

    bind: Sequence[str] = ("127.0.0.1:8080",)  # "host:port", "[::1]:8080", "unix:/path"
    names: Sequence[str] = ()  # of those, in environ["server.listener"]
    certificate: Certificate | None = None  # with it, TLS is spoken
    plain: frozenset[str] = frozenset()  # the names of those that still speak no TLS
    workers: int = 2
    threads: int = (
        4  # for requests that are neither slow nor instant; those have threads of their own
    )
    connections: int = 2000  # beyond this the one that has waited longest is closed for the new one

    request_timeout: float = 20  # from the first byte (or the connect) to the last of a request
    # Of a connection kept open after a response: longer than proxies keep theirs (Google's load
    # balancer 600 s), which otherwise may use one that is just being closed, and respond with 502.
    idle_timeout: float = 650
    send_timeout: float = 20  # for each 32 KiB that the client takes
    drain_timeout: float = 5  # after a refusal, so that the client can read it
    shutdown_delay: float = 0  # from SIGTERM on, all is still served, so that a balancer can notice
    graceful_timeout: int = 30  # after that, for the requests under way

    head_bytes: int = 16 * 1024  # request line and header together
    body_bytes: int = 64 * 1024
    reply_bytes: int = 2 * 1024 * 1024  # of one response kept for a slow client without a thread
    drain_bytes: int = 64 * 1024 * 1024  # thrown away after a refusal, without being kept

    # Requests, as "METHOD /path" without query, whose body the application reads from the network
    # itself, piece by piece, without a limit of size.
    streams: frozenset[str] = frozenset()
    # Which other requests are known to take long (exports). They and the streams have
    # `slow_threads` threads of their own (one at least, and fewer than `threads`), so that the rest
    # never wait for them; `slow_queue` more wait without a thread, and beyond that the response is
    # 503. Any other request is handed over to these threads when the application calls
    # `environ["server.hand_over"]`, which is there for all that are not among them yet. It raises
    # TakesLong, which the application must let through, having done nothing that cannot be done
    # again; the application is then called again there.
    slow: Callable[[Environ], bool] | None = None
    slow_threads: int = 2
    slow_queue: int = 64
    # Requests that never wait long, such as those that do not need a database that hangs. They have
    # their own thread.
    instant: Callable[[Environ], bool] | None = None
    # Which requests (environ and body) the event loop answers itself, by calling the application:
    # those that hardly ever wait for anything. Where one would (for a lock, a disk, another
    # machine) the application calls `environ["server.leave_loop"]`, which hands it over to a thread
    # as hand_over does. It returns what starts the request, which is a function to call; that may
    # return before the request has ended, if the application has it suspended and resumed later by
    # the event loop. None for a thread.
    in_loop: Callable[[Environ, bytes], Start | None] | None = None

    # Whether the application of this worker is ready. Until then the worker accepts connections
    # only if no other worker does.
    is_ready: Callable[[], bool] = _always

    server_name: str = "keyosk"  # SECURITY: the Server header; it tells no version
    error_headers: Sequence[tuple[str, str]] = (("X-Content-Type-Options", "nosniff"),)
    log_level: str = "info"
    formatter: JsonFormatter | None = None  # of the lines that the server logs


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Functions to call: the first three in the master process, the others in a worker."""

    on_ready: Callable[[Sequence[str]], None] = _nothing  # listening, at these addresses
    on_child_exit: Callable[[int], None] = _nothing  # the worker with this process id is gone
    on_stop: Callable[[], None] = _nothing  # it listens no longer
    on_worker_start: Callable[[], None] = _nothing  # forked, before the application is made
    on_leaving: Callable[[], None] = _nothing  # the shutdown delay has begun
    on_worker_exit: Callable[[], None] = _nothing  # nothing more will be answered
