"""The work of ``keyosk serve``, and setting up what is missing."""

import logging
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import NoReturn
from wsgiref.types import WSGIApplication

from keyosk import app
from keyosk.cli import failures, host, logs, machine
from keyosk.config import Config
from keyosk.config.values import Address
from keyosk.errors import ConfigurationError, DatabaseTooNew, DatabaseUnusable, Fault, Unavailable
from keyosk.metrics import Metrics, SharedCounts, release
from keyosk.server import BOOT_ERROR, Hooks, LineHandler, Options
from keyosk.server import serve as run_server
from keyosk.storage import schema
from keyosk.storage.outage import OutageLog, SharedOutage
from keyosk.storage.shared_clock import SharedClock
from keyosk.web import application
from keyosk.web.metrics import MetricsPage
from keyosk.web.middleware import SECURITY_HEADERS
from keyosk.web.not_ready import Starting

_log = logging.getLogger(__name__)


def serve() -> None:
    """Set up what is missing, then answer requests until a signal ends it."""
    _open_missing_outputs()
    configuration = host.settings()
    logs.start(configuration.log_level, configuration.log_format)
    for warning in configuration.warnings:
        _log.warning("%s", warning)
    outages = SharedOutage()
    with ExitStack() as until_served:
        # SECURITY: before anything is made or told. Who holds the address in our place would get
        # the password that is printed.
        listeners = _listeners(configuration, until_served)
        prepared = _prepare_or_wait(configuration, OutageLog(outages))
        bind = tuple(f"fd://{listener.detach()}" for listener in listeners)
    starting = Starting()
    counts = SharedCounts(configuration.workers) if len(bind) > 1 else None
    run_server(
        lambda: _web(configuration, counts, starting, outages=outages, prepared=prepared),
        Options(
            bind=bind,
            workers=configuration.workers,
            threads=configuration.threads,
            streams=application.STREAMS,
            slow=application.is_slow,
            instant=application.is_instant,
            in_loop=partial(
                application.runs_in_loop,
                reads_files=configuration.database_url.startswith("sqlite:"),
            ),
            shutdown_delay=configuration.shutdown_delay,
            error_headers=SECURITY_HEADERS,
            log_level=configuration.log_level,
            formatter=logs.formatter(configuration.log_format),
        ),
        Hooks(
            on_ready=lambda addresses: _say_ready(configuration, addresses[0]),
            on_child_exit=lambda process: release(counts, process) if counts else None,
            on_leaving=starting.leave,
        ),
    )


def _prepare_or_wait(configuration: Config, outage_log: OutageLog) -> bool:
    """Set up what is missing; false where the database is away and is to be waited for."""
    try:
        machine.prepare(configuration, outage_log=outage_log)
    except DatabaseUnusable:
        raise
    except Unavailable:  # the log says why
        return False
    return True


def _web(
    configuration: Config,
    counts: SharedCounts | None,
    starting: Starting,
    *,
    outages: SharedOutage,
    prepared: bool,
) -> WSGIApplication:
    """Return the application of one worker process; where the database is away, once it is back."""
    log = logs.start(configuration.log_level, configuration.log_format)
    outage_log = OutageLog(outages)
    page = MetricsPage(Metrics(counts), starting)

    def begin() -> None:
        application = _application(configuration, page, log, starting, outage_log=outage_log)
        starting.begin(application)
        outage_log.started()

    if prepared:
        try:
            begin()
        except Unavailable:
            prepared = False
        except Exception as error:  # noqa: BLE001 - gunicorn would print a traceback
            _give_up(error)
    if not prepared:
        waiting = threading.Thread(
            target=_begin_late, args=(configuration, begin, outage_log), daemon=True
        )
        waiting.start()
    address = configuration.metrics_bind
    return page.beside(starting, address.port) if isinstance(address, Address) else starting


def _begin_late(configuration: Config, begin: Callable[[], None], outage_log: OutageLog) -> None:
    """Wait for the database; the log has the reason already."""
    while True:
        time.sleep(1)
        try:
            machine.prepare(configuration, outage_log=outage_log)
            begin()
        except DatabaseUnusable as error:
            _give_up(error)
        except Unavailable:
            continue
        except Exception as error:  # noqa: BLE001 - this thread would end, and nothing would begin
            _give_up(error)
        return


def _give_up(error: Exception) -> NoReturn:
    """End the worker with the reason: what is wrong is wrong for all workers."""
    for sentence in failures.sentences(error):
        _log.critical("cannot start: %s", sentence)
    if _log.isEnabledFor(logging.DEBUG):
        # SECURITY: the lines of code only. The text of an exception may hold a secret.
        _log.debug("%s", "".join(traceback.format_tb(error.__traceback__)))
    os._exit(BOOT_ERROR)


def _application(
    configuration: Config,
    page: MetricsPage,
    log: LineHandler,
    starting: Starting,
    *,
    outage_log: OutageLog,
) -> WSGIApplication:
    clock = SharedClock()
    installation = app.build(
        configuration, clock=clock, metrics=page.metrics, outage_log=outage_log
    )
    clock.start(installation.database)
    installation.signing_keys.refresh()
    installation.database.read_without_waiting()  # this is the thread of the event loop

    def maintain() -> None:
        with suppress(Unavailable):  # whoever needs the database says so
            clock.synchronise(installation.database)
        installation.rotation.advance_quietly()

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

    installation.signing_keys.refresh_in_background(then=maintain, until=is_replaced)
    page.monitor = installation.monitor
    return app.create_app(installation, write_line=log.write)


def _listeners(configuration: Config, until_served: ExitStack) -> tuple[socket.socket, ...]:
    """Return what listens, taken already; for the metrics the second, if they have an address.

    Another Keyosk on the machine may have the default place of the metrics: that is no reason not
    to start. Raises ``ConfigurationError`` for an address that somebody chose.
    """
    main = until_served.enter_context(_listener("KEYOSK_BIND", configuration.bind))
    address = configuration.metrics_bind
    if not isinstance(address, Address):
        return (main,)
    try:
        second = _listener("KEYOSK_METRICS_BIND", address)
    except ConfigurationError as error:
        if "metrics_bind" in configuration.sources:
            raise
        _log.warning("no metrics at %s: %s", address, error.faults[0].message)
        return (main,)
    return (main, until_served.enter_context(second))


def _listener(setting: str, address: Address) -> socket.socket:
    """A socket that listens at an address."""
    is_ipv6 = ":" in address.host
    try:
        return socket.create_server(
            (address.host, address.port),
            family=socket.AF_INET6 if is_ipv6 else socket.AF_INET,
            dualstack_ipv6=is_ipv6 and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        raise ConfigurationError([Fault(setting, f"cannot be served: {error.strerror}")]) from error


def _say_ready(configuration: Config, address: str) -> None:
    _log.info("Keyosk serves %s at %s", configuration.issuer, address)


def _open_missing_outputs() -> None:
    """Have something open where there is no standard input or output.

    SECURITY: else the next file that is opened would be it, and log lines would go in there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
