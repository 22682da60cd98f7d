"""The listeners of ``keyosk serve``, from the settings or systemd, and the TLS certificate."""

import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keyosk.config import Config
from keyosk.config.addresses import Address, UnixAddress
from keyosk.config.combinations import CLIENTS_ARE_ONE
from keyosk.config.rules import UNIX
from keyosk.errors import ConfigurationError, Fault
from keyosk.server import BadPair, Certificate, listening
from keyosk.server.listening import UnixFile
from keyosk.web.metrics import LISTENER as METRICS

_log = logging.getLogger(__name__)

_HIGHEST_PORT: Final = 65535
_FIRST_FREE_PORT: Final = 1024  # lower ports need root
_MAIN: Final = "keyosk"
_LOCAL: Final = "local"
#: The names of listeners that speak no TLS, whether there is a certificate or not.
PLAIN: Final = frozenset({METRICS, _LOCAL})


@dataclass(frozen=True, slots=True)
class Listeners:
    """The listening sockets with their names, the main one first."""

    sockets: tuple[socket.socket, ...]
    names: tuple[str, ...]
    files: tuple[UnixFile, ...]

    @property
    def has_metrics(self) -> bool:
        """Whether the metrics have an address."""
        return METRICS in self.names

    def detach(self) -> tuple[str, ...]:
        """Detach the sockets, for gunicorn."""
        return tuple(f"fd://{listener.detach()}" for listener in self.sockets)

    def remove_files(self) -> None:
        """Remove the files of Unix sockets that were created here."""
        for file in self.files:
            file.remove()

    def address(self, *, is_tls: bool) -> str:
        """Return the address of the main listener, for people."""
        place = self.sockets[0].getsockname()
        if isinstance(place, str):
            return f"{UNIX}:{place}"
        return f"{'https' if is_tls else 'http'}://{Address(place[0], place[1])}"


def certificate(configuration: Config) -> Certificate | None:
    """Read the certificate of the settings, if there is one. Raises ``ConfigurationError``."""
    if configuration.tls_certificate is None or configuration.tls_key is None:
        return None
    try:
        return Certificate(Path(configuration.tls_certificate), Path(configuration.tls_key))
    except BadPair as error:
        setting = "KEYOSK_TLS_KEY" if error.is_key else "KEYOSK_TLS_CERTIFICATE"
        raise ConfigurationError([Fault(setting, str(error))]) from error


@contextmanager
def opened(configuration: Config) -> Iterator[Listeners]:
    """Open the listeners; they are closed at the end, unless they were detached.

    Sockets from systemd replace those of the settings. Raises ``ConfigurationError``.
    """
    with ExitStack() as stack:
        passed = [(name, stack.enter_context(inherited)) for name, inherited in _inherited()]
        sockets = [inherited for name, inherited in passed if name != METRICS]
        files: list[UnixFile] = []
        if sockets:
            _check_inherited(configuration, sockets)
        else:
            found, file = _listener("KEYOSK_BIND", configuration.bind, configuration.bind_mode)
            sockets.append(stack.enter_context(found))
            if file is not None:
                files.append(file)
                stack.callback(file.remove)
        names = [_LOCAL if inherited.family == socket.AF_UNIX else _MAIN for inherited in sockets]
        metrics = [inherited for name, inherited in passed if name == METRICS]
        metrics = metrics or _metrics(configuration, stack)
        yield Listeners((*sockets, *metrics), (*names, *([METRICS] * len(metrics))), tuple(files))
        stack.pop_all()


def _inherited() -> list[tuple[str, socket.socket]]:
    try:
        return listening.inherited(os.environ)
    except OSError as error:
        fault = Fault("LISTEN_FDS", f"cannot be served: {error.strerror}")
        raise ConfigurationError([fault]) from error


def _check_inherited(configuration: Config, sockets: list[socket.socket]) -> None:
    if "issuer" not in configuration.sources:
        message = "is required, as systemd opens the sockets: the URL by which clients reach Keyosk"
        raise ConfigurationError([Fault("KEYOSK_ISSUER", message)])
    has_unix = any(listener.family == socket.AF_UNIX for listener in sockets)
    if has_unix and UNIX not in configuration.trusted_proxies:
        _log.warning("%s", CLIENTS_ARE_ONE)


def _metrics(configuration: Config, stack: ExitStack) -> list[socket.socket]:
    """Return the listener for metrics, if there is one.

    If another Keyosk uses the default address for metrics, Keyosk starts without them.
    """
    address = configuration.metrics_bind
    if not isinstance(address, Address):
        return []
    try:
        found, _ = _listener("KEYOSK_METRICS_BIND", address, 0)
    except ConfigurationError as error:
        if "metrics_bind" in configuration.sources:
            raise
        _log.warning("no metrics: %s", error.faults[0].message)
        return []
    return [stack.enter_context(found)]


def _listener(
    setting: str, address: Address | UnixAddress, mode: int
) -> tuple[socket.socket, UnixFile | None]:
    try:
        if isinstance(address, UnixAddress):
            return listening.unix(Path(address.path), mode)
        return listening.tcp(address.host, address.port), None
    except OSError as error:
        raise ConfigurationError([Fault(setting, _refusal(setting, address, error))]) from error


def _refusal(setting: str, address: Address | UnixAddress, error: OSError) -> str:
    """Return the error for an address that cannot be used, with what to do."""
    # Python adds the address to some of the system's messages.
    reason = (error.strerror or type(error).__name__).partition(" (while ")[0]
    return f"cannot listen at {address}: {reason}{_cure(setting, address, error.errno)}"


def _cure(setting: str, address: Address | UnixAddress, code: int | None) -> str:
    if code == errno.EADDRINUSE and isinstance(address, Address):
        other = Address(address.host, address.port % _HIGHEST_PORT + 1)
        return f"; stop the program that listens there, or choose another port ({setting}={other})"
    if code == errno.EADDRINUSE:
        return "; stop the program that listens there, or choose another path"
    if code == errno.EACCES and isinstance(address, Address) and address.port < _FIRST_FREE_PORT:
        return (
            f"; choose a port from {_FIRST_FREE_PORT} on, or let this user have lower ones "
            "(CAP_NET_BIND_SERVICE)"
        )
    if code == errno.EADDRNOTAVAIL:
        return "; name an address that this machine has"
    return ""
