"""What one service has of its issuer: the keys, the revocations, and what to fetch when.

It does no I/O of its own: ``refresh`` and ``fetch_key`` are flows (``flows``). Only one of them
runs at a time; reading needs no lock.
"""

import logging
import random
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import httpx
import jwt

from keyosk_client import flows, key_set
from keyosk_client.errors import InvalidToken, KeysUnavailable, RevocationsUnavailable
from keyosk_client.flows import TRANSPORT_ERRORS, Flow, Send
from keyosk_client.revocations import RevocationList
from keyosk_client.token import Token

Revocations = Literal["required", "best-effort", "off"]

#: Seconds that keys are kept if the response does not say.
_LIFETIME: Final = 300
_LONGEST_LIFETIME: Final = 86_400
#: Keys are fetched again after this part of their lifetime.
_EARLY: Final = 0.8
#: Seconds between two fetches because of an unknown ``kid``: anybody can make one up.
_UNKNOWN: Final = 30
#: Seconds between two attempts while Keyosk is unavailable.
_RETRY: Final = 5
#: Bytes of the largest list of revocations that is taken: some 500,000 entries.
_LARGEST_LIST: Final = 64_000_000
#: Poll intervals after which a required list of revocations is too old.
_MISSED: Final = 6
_MAX_AGE: Final = re.compile(r"(?:^|[\s,])max-age=(\d{1,9})", re.IGNORECASE)

_log = logging.getLogger("keyosk_client")


class IssuerState:
    """The keys and revocations of an issuer, as they were fetched last."""

    def __init__(
        self,
        issuer: str,
        *,
        service: str | None,
        revocations: Revocations,
        poll_interval: float,
        max_stale: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if urlsplit(issuer).scheme not in ("http", "https") or not urlsplit(issuer).netloc:
            raise ValueError("issuer must be an http or https URL")
        if revocations not in ("required", "best-effort", "off"):
            raise ValueError("revocations must be required, best-effort or off")
        self.issuer = issuer
        # OpenID Connect Discovery section 4: without a slash at its end.
        self._base = issuer.removesuffix("/")
        self._service = service
        self._mode = revocations
        self._poll_interval = poll_interval
        self._max_stale = max_stale
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Forget everything, as if nothing had been fetched yet."""
        now = self._clock()
        self._endpoints: dict[str, str] = {}
        self._keys: dict[str, jwt.PyJWK] = {}
        self._tag: str | None = None
        self._keys_at: float | None = None  # when they were fetched last
        self._keys_due = now
        self._failed_at: float | None = None  # if the last fetch of keys failed
        self._asked_at: float | None = None  # the last fetch for an unknown kid
        self._revoked = RevocationList()
        self._revoked_tag: str | None = None
        self._revoked_at: float | None = None
        self._revoked_due = now
        self._out: dict[str, str] = {}  # what could not be fetched last time, and why

    # ---- Reading ---------------------------------------------------------------------------------

    def key(self, kid: str) -> jwt.PyJWK | None:
        """Return the key with this ``kid``; ``None`` if it is unknown or the keys are too old."""
        return None if self._are_stale() else self._keys.get(kid)

    def key_or_refuse(self, kid: str) -> jwt.PyJWK:
        """Return the key after ``fetch_key``. Raises ``InvalidToken``, ``KeysUnavailable``."""
        key = self.key(kid)
        if key is not None:
            return key
        # It may be a new key: without an answer from Keyosk nobody can tell.
        if self._failed_at is not None or self._are_stale():
            raise KeysUnavailable(self._why_not("keys"))
        raise InvalidToken("The token names an unknown key.")

    def check_revoked(self, kid: str, token: Token) -> None:
        """Raise ``InvalidToken`` if a verified token is revoked; ``RevocationsUnavailable``."""
        if self._mode == "off":
            return
        if self._mode == "required":
            longest = self._poll_interval * _MISSED
            if self._revoked_at is None or self._clock() - self._revoked_at > longest:
                raise RevocationsUnavailable(self._why_not("revocations"))
        if self._revoked.revokes(kid, token.claims):
            raise InvalidToken("The token is revoked.")

    @property
    def due_in(self) -> float:
        """Seconds until ``refresh`` has something to do."""
        due = self._keys_due if self._mode == "off" else min(self._keys_due, self._revoked_due)
        return max(0.0, due - self._clock())

    # ---- Fetching --------------------------------------------------------------------------------

    def fetch_key(self, kid: str) -> Flow[None]:
        """Fetch the keys for a ``kid`` that was unknown a moment ago, if it is time to."""
        if self.key(kid) is not None or not self._may_ask():
            return
        if self._keys_at is not None:
            self._asked_at = self._clock()
        yield from self._fetch_keys()
        if self._revoked_at is None and self._mode != "off":
            yield from self._fetch_revocations()

    def refresh(self) -> Flow[None]:
        """Fetch what is due."""
        if self._mode != "off" and self._clock() >= self._revoked_due:
            yield from self._fetch_revocations()
        if self._clock() >= self._keys_due:
            yield from self._fetch_keys()

    def _are_stale(self) -> bool:
        return self._keys_at is None or self._clock() - self._keys_at > self._max_stale

    def _may_ask(self) -> bool:
        now = self._clock()
        if self._failed_at is not None and now - self._failed_at < _RETRY:
            return False
        if self._are_stale():
            return True
        return self._asked_at is None or now - self._asked_at >= _UNKNOWN

    def _fetch_keys(self) -> Flow[None]:
        try:
            url = yield from self._endpoint("jwks_uri")
            response = yield from self._get(url, self._tag, service=self._service)
            if _is_modified(response):
                keys = key_set.read(response.json())
                if not keys:
                    raise ValueError("no usable key")
                self._keys = keys
                self._tag = response.headers.get("ETag")
        except (*TRANSPORT_ERRORS, ValueError) as error:
            self._failed_at = self._clock()
            self._keys_due = self._failed_at + _RETRY * _jitter()
            self._note_outage("keys", error)
            return
        self._note_end("keys")
        self._failed_at = None
        self._keys_at = self._clock()
        self._keys_due = self._keys_at + max(1.0, _lifetime(response) * _EARLY)

    def _fetch_revocations(self) -> Flow[None]:
        self._revoked_due = self._clock() + self._poll_interval * _jitter()
        try:
            url = yield from self._endpoint("revocations_endpoint")
            since = str(self._revoked.sequence)
            response = yield from self._get(
                url, self._revoked_tag, largest=_LARGEST_LIST, since=since
            )
            now = _earliest_now(response)
            if _is_modified(response):
                if self._revoked.apply(response.json(), now=now):
                    self._keys_due = self._clock()  # a signing key was stolen
                # The next request asks for what comes after another number.
                moved = str(self._revoked.sequence) != since
                self._revoked_tag = None if moved else response.headers.get("ETag")
            else:
                self._revoked.drop_expired(now)
        except (*TRANSPORT_ERRORS, ValueError) as error:
            self._note_outage("revocations", error)
            return
        self._note_end("revocations")
        self._revoked_at = self._clock()

    def _note_outage(self, what: str, error: Exception) -> None:
        """Log the beginning of an outage, not each attempt."""
        reason = flows.reason(error)
        if what not in self._out:
            _log.warning("the %s of %s were not fetched: %s", what, self.issuer, reason)
        self._out[what] = reason

    def _note_end(self, what: str) -> None:
        if what in self._out:
            _log.warning("the %s of %s are fetched again", what, self.issuer)
        self._out.pop(what, None)

    def _why_not(self, what: str) -> str:
        reason = self._out.get(what)
        said = f"The {what} of {self.issuer} cannot be fetched"
        return f"{said}: {reason}." if reason else f"{said}."

    def _endpoint(self, name: str) -> Flow[str]:
        """Return a URL of the issuer's metadata (RFC 8414, OpenID Connect Discovery section 4)."""
        if not self._endpoints:
            response = yield from self._get(f"{self._base}/.well-known/openid-configuration", None)
            self._endpoints = self._read_metadata(response.raise_for_status().json())
        # Other issuers have no revocations.
        if name not in self._endpoints and name == "revocations_endpoint":
            return f"{self._base}/auth/revocations"
        return self._endpoints[name]

    def _read_metadata(self, document: Any) -> dict[str, str]:
        if not isinstance(document, dict):
            raise ValueError("its metadata is no object")
        # SECURITY: RFC 8414 section 3.3. Another issuer's keys must not be taken for this one's.
        if document.get("issuer") != self.issuer:
            named = document.get("issuer")
            raise ValueError(f"it calls itself {named!r:.200}; the issuer must be that very text")
        endpoints = {
            name: document[name]
            for name in ("jwks_uri", "revocations_endpoint", "token_endpoint")
            if isinstance(document.get(name), str)
        }
        if "jwks_uri" not in endpoints:
            raise ValueError("its metadata has no jwks_uri")
        # SECURITY: from https nothing leads back to http.
        schemes = {"https"} if self.issuer.startswith("https:") else {"http", "https"}
        if not {urlsplit(url).scheme for url in endpoints.values()} <= schemes:
            raise ValueError("its metadata names a URL without https")
        return endpoints

    @staticmethod
    def _get(
        url: str, tag: str | None, *, largest: int | None = None, **params: str | None
    ) -> Flow[httpx.Response]:
        headers = {"Accept": "application/json"} | ({"If-None-Match": tag} if tag else {})
        query = {name: value for name, value in params.items() if value is not None}
        step = Send("GET", url, params=query, headers=headers)
        return flows.send(step if largest is None else replace(step, largest=largest))


def _is_modified(response: httpx.Response) -> bool:
    """Return whether there is a new document. Raises ``httpx.HTTPStatusError``."""
    return response.status_code != 304 and bool(response.raise_for_status())


def _lifetime(response: httpx.Response) -> int:
    """Return the seconds that a response may be kept (RFC 9111 section 5.2.2.1)."""
    said = _MAX_AGE.search(response.headers.get("Cache-Control", ""))
    age = response.headers.get("Age", "")
    spent = int(age) if age.isascii() and age.isdecimal() and len(age) < 9 else 0
    return max(0, min(int(said[1]) if said else _LIFETIME, _LONGEST_LIFETIME) - spent)


def _earliest_now(response: httpx.Response) -> float:
    """Return the time by the clock that is behind: this machine's, or Keyosk's.

    SECURITY: an entry that is dropped never comes back, as only newer ones are asked for. By a
    clock that is ahead for a moment, what it revoked would be accepted once that clock is right.
    """
    now = time.time()
    with suppress(ValueError, TypeError, OverflowError):
        now = min(now, parsedate_to_datetime(response.headers.get("Date", "")).timestamp())
    return now


def _jitter() -> float:
    return random.uniform(0.9, 1.1)  # noqa: S311 - to spread load
