"""The work of ``keyosk serve``, and setting up what is missing."""

import logging
import operator
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import NoReturn
from wsgiref.types import WSGIApplication

from keyosk import __version__, app, diagnosis
from keyosk.checks import OK
from keyosk.cli import failures, global_options, listeners, logs, machine, welcome
from keyosk.config import Config
from keyosk.config.addresses import Address
from keyosk.console import application as console
from keyosk.errors import DatabaseTooNew, DatabaseUnusable, Unavailable
from keyosk.installation import Installation
from keyosk.metrics import Metrics, SharedCounts, release
from keyosk.server import BOOT_ERROR, Certificate, Environ, Hooks, LineHandler, Options, Start
from keyosk.server import serve as run_server
from keyosk.storage import schema
from keyosk.storage.outage import OutageLog, SharedOutage
from keyosk.storage.shared_clock import SharedClock
from keyosk.suspension import Suspendable
from keyosk.web import application
from keyosk.web.metrics import MetricsPage
from keyosk.web.middleware import SECURITY_HEADERS
from keyosk.web.not_ready import Starting

_log = logging.getLogger(__name__)


def serve() -> None:
    """Set up what is missing, then answer requests until a signal ends it."""
    _open_missing_outputs()
    configuration = global_options.settings()
    log = logs.start(configuration.log_level, configuration.log_format)
    app.check(configuration)
    for warning in configuration.warnings:
        _log.warning("%s", warning)
    outages = SharedOutage()
    certificate = listeners.certificate(configuration)
    # SECURITY: listen before anything is created or printed. The printed command sends a password
    # to this address, so no other process may hold it.
    with listeners.opened(configuration) as opened:
        address = opened.address(is_tls=certificate is not None)
        prepared = _prepare_or_wait(configuration, address, OutageLog(outages))
        bind = opened.detach()
    _warn_about_files(configuration)
    starting = Starting()
    counts = SharedCounts(configuration.workers) if opened.has_metrics else None
    page = MetricsPage(Metrics(counts, claim=False), starting)
    outage_log = OutageLog(outages)
    make = cache(partial(_make, configuration, page, log, outage_log))
    if prepared and configuration.traces == "off":
        # Before the fork, so that the workers share its memory. Not with traces: their libraries
        # start threads, which do not survive a fork.
        make()
    run_server(
        lambda: _web(
            configuration,
            page,
            starting,
            log=log,
            outage_log=outage_log,
            make=make,
            prepared=prepared,
        ),
        _options(configuration, bind, opened.names, certificate, starting=starting),
        Hooks(
            on_ready=lambda _: _say_ready(configuration, address),
            on_child_exit=lambda process: release(counts, process) if counts else None,
            on_stop=opened.remove_files,
            on_leaving=starting.leave,
        ),
    )


def _warn_about_files(configuration: Config) -> None:
    """Log which private files others can read.

    It is no reason not to start: containers mount secrets that everyone inside can read.
    """
    for check in diagnosis.of_files(configuration):
        if check.status != OK:
            _log.warning("%s: %s", check.found, check.cure)


def _options(
    configuration: Config,
    bind: Sequence[str],
    names: Sequence[str],
    certificate: Certificate | None,
    *,
    starting: Starting,
) -> Options:
    return Options(
        bind=bind,
        names=names,
        certificate=certificate,
        plain=listeners.PLAIN,
        workers=configuration.workers,
        threads=configuration.threads,
        streams=application.STREAMS,
        slow=lambda environ: application.is_slow(environ) or console.is_slow(environ),
        instant=application.is_instant,
        in_loop=_in_loop(
            reads_files=configuration.database_url.startswith("sqlite:"),
            reads=starting.reads_in_loop,
        ),
        is_ready=starting.has_begun,
        shutdown_delay=configuration.shutdown_delay,
        error_headers=SECURITY_HEADERS,
        log_level=configuration.log_level,
        formatter=logs.formatter(configuration.log_format),
    )


def _in_loop(
    *, reads_files: bool, reads: Callable[[], bool]
) -> Callable[[Environ, bytes], Start | None]:
    """Return what ``Options.in_loop`` is; the parameters are those of ``runs_in_loop``."""
    suspended = Suspendable().run

    def start(environ: Environ, body: bytes) -> Start | None:
        if not application.runs_in_loop(environ, body, reads_files=reads_files, reads=reads):
            return None
        # A file is read at once, so only what writes is suspended: to be ready for it takes 5 us.
        return operator.call if reads_files and not application.may_write(body) else suspended

    return start


def _prepare_or_wait(configuration: Config, address: str, outage_log: OutageLog) -> bool:
    """Set up what is missing; returns false if the database is unavailable, to be waited for."""
    greet = partial(welcome.show, configuration, address) if welcome.is_wanted() else None
    try:
        admin = machine.prepare(configuration, greet=greet, outage_log=outage_log)
        if admin is None and greet is not None:
            with suppress(OSError):
                greet(None)
    except DatabaseUnusable:
        raise
    except machine.SecretNotPrinted as error:
        _log.error("%s", error)
    except Unavailable:  # the log says why
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Made:
    """An installation without connections, threads and counts yet, so that it can be forked."""

    installation: Installation
    application: WSGIApplication
    clock: SharedClock


def _make(
    configuration: Config, page: MetricsPage, log: LineHandler, outage_log: OutageLog
) -> _Made:
    tracing = app.start_traces(configuration)
    clock = SharedClock()
    installation = Installation(
        configuration, clock=clock, metrics=page.metrics, outage_log=outage_log
    )
    application = app.create_app(installation, write_line=log.write, tracing=tracing)
    return _Made(installation, application, clock)


def _web(
    configuration: Config,
    page: MetricsPage,
    starting: Starting,
    *,
    log: LineHandler,
    outage_log: OutageLog,
    make: Callable[[], _Made],
    prepared: bool,
) -> WSGIApplication:
    """Return the application of a worker; it begins to serve once the database is available."""
    logs.start_anew(log)
    page.metrics.claim()
    set_up = None if prepared else partial(machine.prepare, configuration, outage_log=outage_log)

    def begin() -> None:
        started = make()
        _begin(configuration, started, page, starting)
        starting.begin(
            started.application, reads_in_loop=started.installation.database.reads_in_loop
        )
        outage_log.started()

    if prepared:
        try:
            begin()
        except Unavailable:
            prepared = False
        except Exception as error:  # noqa: BLE001 - gunicorn would print a traceback
            _give_up(error)
    if not prepared:
        threading.Thread(target=_begin_late, args=(begin, set_up), daemon=True).start()
    return page.wrap(starting)


def _begin_late(begin: Callable[[], None], set_up: Callable[[], object] | None) -> None:
    """Wait for the database, then begin. The log already has the reason for waiting.

    ``set_up``: creates what is missing, in the first workers of a server that started without its
    database. SECURITY: no other worker may. Where the database of a running server is empty or has
    no file, its disk or its rows are missing for a moment; a new installation in its place would
    have another admin and other keys.
    """
    reason = ""
    while True:
        # The first try is at once: a lost connection need not mean a lost database.
        try:
            if set_up is not None:
                set_up()
            begin()
        except Unavailable as error:
            if isinstance(error, machine.SecretNotPrinted):
                _log.error("%s", error)
                continue  # all else is done
            if isinstance(error, DatabaseUnusable):
                if set_up is not None:
                    _give_up(error)
                if reason != error.explanation:
                    reason = error.explanation
                    _log.warning("waiting for the database: %s", reason)
            time.sleep(1)
            continue
        except Exception as error:  # noqa: BLE001 - this thread would end, and nothing would begin
            _give_up(error)
        return


def _give_up(error: Exception) -> NoReturn:
    """Log the reason and end the worker; the same reason would stop every other worker."""
    for sentence in failures.sentences(error):
        _log.critical("cannot start: %s", sentence)
    if _log.isEnabledFor(logging.DEBUG):
        # SECURITY: only the lines of code. The text of an exception may hold a secret.
        _log.debug("%s", "".join(traceback.format_tb(error.__traceback__)))
    os._exit(BOOT_ERROR)


def _begin(configuration: Config, started: _Made, page: MetricsPage, starting: Starting) -> None:
    """Start what each process has of its own. Raises ``Unavailable``."""
    installation, clock = started.installation, started.clock
    clock.start(installation.database)
    installation.signing_keys.refresh()
    installation.service_algorithms.remember()
    installation.database.read_without_waiting()  # this thread runs the event loop

    def maintain() -> None:
        with suppress(Unavailable):  # a request that needs the database reports it
            clock.synchronise(installation.database)
        installation.key_schedule.advance_quietly()
        installation.service_algorithms.remember()

    def is_replaced() -> bool:
        try:
            schema.refuse_newer(installation.database)
        except DatabaseTooNew as error:
            _log.critical("no request is served any more: %s", error)
            starting.refuse(str(error))
            return True
        except Unavailable:
            return False
        return False

    installation.service_algorithms.start()
    installation.signing_keys.refresh_in_background(then=maintain, until=is_replaced)
    installation.activity.write_in_background(
        _node_name(configuration), __version__, then=installation.scope_uses.write
    )
    page.monitor = installation.monitor


def _node_name(configuration: Config) -> str:
    """Return the name of this node in the list of nodes: its machine, and where it listens."""
    bind = configuration.bind
    place = str(bind.port) if isinstance(bind, Address) else bind.path
    return f"{socket.gethostname()}:{place}"[:255]


def _say_ready(configuration: Config, address: str) -> None:
    _log.info("Keyosk serves %s at %s", configuration.issuer, address)


def _open_missing_outputs() -> None:
    """Open the null device in place of a missing standard input, output or error.

    SECURITY: otherwise the next opened file would get its descriptor, and log lines with it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
