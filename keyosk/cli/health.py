"""Checks whether the Keyosk of these settings responds."""

import http.client
import socket
import ssl
from typing import Final

from keyosk.cli import global_options
from keyosk.cli.refusals import Refused
from keyosk.config import Config
from keyosk.config.addresses import Address, UnixAddress

_PATIENCE: Final = 5  # seconds
_THIS_MACHINE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # nosec B104


def check(*, ready: bool) -> None:
    """Check that it responds; ``ready``: also that its database does. Raises ``Refused``."""
    configuration = global_options.settings()
    connection = _connection(configuration)
    try:
        connection.request("GET", "/health/ready" if ready else "/health/live")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or error
        raise Refused(
            f"Keyosk does not respond at {configuration.bind}: {reason}. Is it running, and are "
            "these its settings (keyosk config check)?"
        ) from error
    finally:
        connection.close()
    if status != http.client.OK:
        raise Refused(f"Keyosk at {configuration.bind} responds with {status}.")


def _connection(configuration: Config) -> http.client.HTTPConnection:
    address = configuration.bind
    if isinstance(address, UnixAddress):
        return _UnixConnection(address.path)
    place = Address(_THIS_MACHINE.get(address.host, address.host), address.port)
    if configuration.tls_certificate is None:
        return http.client.HTTPConnection(place.host, place.port, timeout=_PATIENCE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # SECURITY: only here, where no secret is sent and the response has none: the certificate is for
    # the public name, not for this address.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(place.host, place.port, timeout=_PATIENCE, context=context)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_PATIENCE)
        self.sock.connect(self._path)
