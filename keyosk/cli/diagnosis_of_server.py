"""The checks of a Keyosk from outside: its clock, issuer, keys and TLS.

``diagnosis`` runs them, too, in addition to those on the machine itself.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from keyosk.checks import NOT_CHECKED, OK, WARNING, WRONG, Check, of_keys
from keyosk.cli import diagnosis_of_workloads, global_options, remote, shared
from keyosk.cli.refusals import Refused

if TYPE_CHECKING:
    from keyosk.cli.client import Client

_DAY: Final = 86_400
#: Seconds by which clocks may differ, given that they are compared in whole seconds.
_TOLERATED: Final = 5
_SOON: Final = 14  # days
_ON_MACHINE: Final = ("settings", "database", "files", "backup", "proxies")


def examine(server: str) -> list[Check]:
    """Check a server. Raises ``Refused`` for an invalid URL."""
    place = remote.server_of(server, allow_http=global_options.allows_http())
    checks = [
        Check(part, NOT_CHECKED, "needs the machine that has the database") for part in _ON_MACHINE
    ]
    checks += attempted("clock", lambda: clock_of(place))
    checks += attempted("keys", _keys)
    checks += attempted("rules", _rules)
    checks += issuer_from_outside(place, expected=None)
    return checks


def _keys() -> Iterator[Check]:
    with shared.client() as client:
        yield from keys_of(client)


def _rules() -> Iterator[Check]:
    with shared.client() as client:
        yield from diagnosis_of_workloads.rules_of(client)


def attempted(part: str, look: Callable[[], Iterable[Check]]) -> list[Check]:
    """Return the results of a check; a refusal is a result, so that other checks still run."""
    try:
        return list(look())
    except Refused as refused:
        message = " ".join(refused.sentences)
        return [
            Check(
                part,
                WRONG,
                message,
                "Start it if it is down, and log in as an account that may do this.",
            )
        ]


def clock_of(server: str) -> Iterator[Check]:
    """Compare this machine's clock with a server's."""
    with remote.anonymous(server) as client:
        before = time.time()
        server_time = client.clock()
        after = time.time()
    if server_time is None:
        yield Check("clock", NOT_CHECKED, "the server's responses have no Date")
        return
    # A Date header has whole seconds.
    ahead = max(before - server_time - 1, server_time - after, 0)
    if ahead > _TOLERATED:
        yield Check(
            "clock",
            WRONG,
            f"this machine's clock and the server's differ by {ahead:.0f} seconds",
            "Synchronise both clocks (NTP): tokens seem expired, or of a time to come.",
        )
    else:
        yield Check("clock", OK, "this machine's clock and the server's agree")


def keys_of(client: "Client") -> Iterator[Check]:
    """Check the signing keys, and which services have not fetched the next one."""
    return of_keys(client.items("signing-keys"))


def issuer_from_outside(server: str, *, expected: str | None) -> list[Check]:
    """Call the issuer as others do; ``expected``: the issuer in its metadata.

    The last check is that of TLS.
    """

    def look() -> Iterator[Check]:
        with remote.anonymous(server) as client:
            named = client.issuer()
        if named == (expected or server):
            yield Check("issuer", OK, f"{server} answers as itself")
            return
        yield Check(
            "issuer",
            WRONG,
            f"{server} calls itself {named}",
            "Verifiers configured with one refuse the tokens of the other. Set KEYOSK_ISSUER to "
            "the URL that everybody uses, or see what else answers there.",
        )

    return [*attempted("issuer", look), *attempted("TLS", lambda: _tls(server))]


def _tls(server: str) -> Iterator[Check]:
    parts = urlsplit(server)
    if parts.scheme != "https":
        if remote.is_loopback(parts.hostname or ""):
            yield Check("TLS", OK, "not needed: only this machine reaches the issuer")
        else:
            yield Check(
                "TLS",
                WRONG,
                f"{server} is without TLS",
                "Everybody on the way can read passwords and tokens: use https.",
            )
        return
    try:
        end = remote.certificate_end(server)
    except OSError as error:
        reason = getattr(error, "verify_message", None) or error.strerror or type(error).__name__
        yield Check(
            "TLS",
            WRONG,
            f"no trusted connection: {reason}",
            "See that the server runs and its certificate is that of its name; name an authority "
            "of your own in SSL_CERT_FILE.",
        )
        return
    days = (end - time.time()) / _DAY
    until = datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%d")
    if days < _SOON:
        yield Check("TLS", WARNING, f"the certificate expires on {until}", "Renew it now.")
    else:
        yield Check("TLS", OK, f"the certificate is valid until {until}")
