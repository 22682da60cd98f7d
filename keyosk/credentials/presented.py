"""The credentials that a request presents."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from keyosk import whitespace
from keyosk.credentials import api_key_format


@dataclass(frozen=True, slots=True)
class Candidate:
    """One reading of a login. Clients encode a username with its secret in several ways.

    ``is_api_key``: the secret has the form of an API key, with the right checksum.
    """

    username: str
    secret: str = field(repr=False)
    is_api_key: bool


@dataclass(frozen=True, slots=True)
class Credentials:
    """The parsed ``Authorization`` header of one request.

    ``scheme`` in lower case; ``None`` if the request has no such header. ``token``: the value after
    Bearer, unless it is an API key. ``candidates``: the readings of a username with its
    secret, in the order to try; an API key that comes alone has no username. There are none if the
    header cannot be read.
    """

    scheme: str | None = None
    token: str | None = field(default=None, repr=False)
    candidates: tuple[Candidate, ...] = ()


def candidates(pairs: Iterable[tuple[str, str]]) -> tuple[Candidate, ...]:
    """The readings of a login as (username, secret) pairs, each checksum computed here and once."""
    return tuple(_candidate(username, secret) for username, secret in pairs)


def _candidate(username: str, secret: str) -> Candidate:
    """Return one reading, without what a secret has around it if it was read from a file.

    No API key has white space in it, and no password ends with a line end.
    """
    key = whitespace.trim(secret)
    if api_key_format.is_well_formed(key):
        return Candidate(username, key, is_api_key=True)
    return Candidate(username, secret.rstrip(whitespace.LINE_ENDS), is_api_key=False)
