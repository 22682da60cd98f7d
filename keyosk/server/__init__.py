"""The HTTP server: gunicorn, started from the program, with its own worker class.

Owns the processes, the connections, the limits and deadlines of requests and responses, and the few
responses without the application (malformed, too large, too late). It does not know Keyosk. An
application comes in as a factory, the settings as `Options`.

A request: `worker` accepts its connection, unless `balance` says that another worker has fewer. It
is an asyncio protocol of `connection`, which keeps the deadlines and the limits; `parsing` (llhttp,
and further checks) parses the request and finds its end. A thread of a `pool`, or the event
loop itself for what rarely waits or can be suspended while it does, calls the application through
`wsgi`, which hands the response back to the connection. `problems` are the server's own errors.
"""

import gc
import os
import queue
import signal
import time
from collections.abc import Callable
from typing import Any, NoReturn

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter as GunicornArbiter
from gunicorn.errors import HaltServer

from keyosk.server.balance import Balance
from keyosk.server.logs import (
    JsonFormatter,
    LineHandler,
    LogStream,
    ServerLogger,
    TextFormatter,
)
from keyosk.server.options import Environ, Hooks, Options, Start
from keyosk.server.tls import BadPair, Certificate
from keyosk.server.worker import LEAVE, SIGNALS, Worker

__all__ = [
    "BOOT_ERROR",
    "BadPair",
    "Certificate",
    "Environ",
    "Hooks",
    "JsonFormatter",
    "LineHandler",
    "LogStream",
    "Options",
    "Start",
    "TextFormatter",
    "Worker",
    "serve",
]

#: The exit code of a worker whose failure would also stop any other; the master then stops.
BOOT_ERROR = GunicornArbiter.WORKER_BOOT_ERROR
#: By these gunicorn hands its sockets to a second master; a program that it runs inherits them.
_OF_ANOTHER_GUNICORN = ("GUNICORN_PID", "GUNICORN_FD")
_STUCK = 30  # seconds without a sign of life after which the master replaces a worker


def serve(app_factory: Callable[[], Any], options: Options, hooks: Hooks | None = None) -> NoReturn:
    """Serve until a signal stops it; the process exits 0 after a clean stop.

    `app_factory` is called once in each worker, after the fork, and returns a WSGI application that
    is called from several threads. SIGTERM waits for the shutdown delay and finishes what is under
    way, SIGINT and SIGQUIT do not, SIGHUP replaces the workers one by one. If the factory raises,
    the process exits 3.
    """
    for name in _OF_ANOTHER_GUNICORN:
        os.environ.pop(name, None)
    try:
        _Server(app_factory, options, hooks or Hooks()).run()
    except HaltServer as fault:
        # gunicorn handles this for the first worker that cannot start, but not for a second.
        raise SystemExit(fault.exit_status) from fault
    raise SystemExit(0)


class Arbiter(GunicornArbiter):
    """gunicorn's master process."""

    def spawn_worker(self) -> Any:
        """Fork a worker; the worker lives and ends in here.

        A signal that reaches a worker before it has its own handlers would be swallowed by those of
        the master that it was forked with, and a stop would then wait for the graceful timeout.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            return super().spawn_worker()
        except OSError as error:  # no process, memory or descriptor is left
            self.log.error("cannot start a worker: %s", error.strerror)
            if not self.WORKERS:
                raise HaltServer("no worker can be started", 1) from error
            return None  # the others go on, and the master tries again
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def reload(self) -> None:
        """Replace the workers, unless the files of the certificate cannot be used.

        The workers have the last one that could be; their successors would have an earlier one.
        """
        certificate = self.app.options.certificate
        if certificate is None or certificate.renew(self.log):
            super().reload()
        else:
            self.log.error("the workers are not replaced")

    def handle_usr2(self) -> None:
        """Start no second master, as gunicorn would: it could not listen."""
        self.log.warning("SIGUSR2 is ignored")

    def stop(self, graceful: bool = True) -> None:
        """End the workers; a graceful stop begins with the shutdown delay."""
        if graceful:
            self._wait_for_balancers(self.app.options.shutdown_delay)
        # gunicorn must not remove the files of Unix sockets, which may belong to systemd or to
        # another Keyosk.
        self.systemd = True
        super().stop(graceful)
        self.app.hooks.on_stop()

    def _wait_for_balancers(self, seconds: float) -> None:
        """Let the workers report that they will stop, while they still serve requests."""
        if not seconds:
            return
        self.kill_workers(LEAVE)
        end = time.monotonic() + seconds
        while self.WORKERS and (left := end - time.monotonic()) > 0:
            try:
                number = self.SIG_QUEUE.get(timeout=min(left, 0.5))
            except queue.Empty:
                continue
            if number in (signal.SIGINT, signal.SIGQUIT):
                self.SIG_QUEUE.put(number)  # for the stop itself, which then hurries
                return
            self.reap_workers()


class _Server(BaseApplication):
    def __init__(self, app_factory: Callable[[], Any], options: Options, hooks: Hooks) -> None:
        self.app_factory = app_factory
        self.options = options
        self.hooks = hooks
        self.balance = Balance()
        super().__init__(prog="keyosk")

    def load_config(self) -> None:
        """Set every relevant setting, so that neither a file nor the environment changes one."""
        options = self.options
        if options.formatter is not None:
            ServerLogger.formatter = options.formatter
        settings = {
            "bind": list(options.bind),
            "workers": options.workers,
            "worker_class": Worker,
            "timeout": _STUCK,
            "graceful_timeout": options.graceful_timeout,
            "preload_app": False,
            "reuse_port": False,
            "max_requests": 0,
            "proc_name": "keyosk",
            "umask": 0o077,
            # SECURITY: on by default, under HOME.
            "control_socket_disable": True,
            "accesslog": None,
            "errorlog": "-",
            "loglevel": options.log_level,
            "logger_class": ServerLogger,
            "when_ready": self._when_ready,
            "child_exit": self._child_exit,
            "post_fork": self._post_fork,
            "worker_exit": self._worker_exit,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def run(self) -> None:
        """Run the master process."""
        # The loaded objects are shared with the workers until someone writes to them, as the
        # garbage collector would to each of them (17 MiB with two workers). Collecting before would
        # take a tenth of the start for little.
        gc.freeze()
        gc.enable()  # the caller may have started without it
        Arbiter(self).run()

    def load(self) -> Any:
        """Make the application; gunicorn calls this in the worker."""
        return self.app_factory()

    def _when_ready(self, arbiter: Any) -> None:
        self.hooks.on_ready([str(listener) for listener in arbiter.LISTENERS])

    def _child_exit(self, _arbiter: Any, worker: Any) -> None:
        self.balance.leave(worker.age)
        self.hooks.on_child_exit(worker.pid)

    def _post_fork(self, _arbiter: Any, _worker: Any) -> None:
        self.hooks.on_worker_start()

    def _worker_exit(self, _arbiter: Any, worker: Any) -> None:
        # gunicorn calls this in the master too, for a worker that was gone before it could be told.
        if worker.pid == os.getpid():
            self.hooks.on_worker_exit()
