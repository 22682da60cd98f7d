"""Tokens for a program that calls services (RFC 6749 section 4.4, RFC 7523, RFC 8693).

A source is a login, by a secret or by a token of the platform (``workload``), and what its tokens
are for. httpx, httpx2 and requests take it as ``auth``.
"""

import asyncio
import hashlib
import os
import random
import re
import ssl
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx

from keyosk_client import flows, http, workload
from keyosk_client.errors import LoginRefused, TokenUnavailable
from keyosk_client.flows import TRANSPORT_ERRORS, Flow, Pause, Send
from keyosk_client.token import Token
from keyosk_client.workload import Identity

#: Seconds for all attempts to get one token.
_PATIENCE: Final = 30.0
_LONGEST_BACKOFF: Final = 8.0
#: A token is replaced so many seconds before it expires, or after this part of a short life.
_EARLY: Final = 60
_EARLY_PART: Final = 0.2
#: Seconds until the next attempt to replace a token that is still good, after one that failed.
_PAUSE: Final = 5
#: Tokens that one login keeps: one for each audience, scope and exchanged token.
_MOST_KEPT: Final = 1_000
_ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a type
#: What a token may consist of (RFC 6750 section 2.1).
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)
_FOREVER: Final = 2**31
_BUSY: Final = (429, 500, 502, 503, 504)

S = TypeVar("S", bound="TokenSourceCore")


@dataclass(frozen=True, slots=True)
class _Issued:
    text: str
    replace_at: float
    ends_at: float


class _Place:
    """Where one token is kept, and who fetches it."""

    def __init__(self) -> None:
        self.token: _Issued | None = None
        self.lock = threading.Lock()
        self._async_lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def lock_of_loop(self) -> asyncio.Lock:
        """Return the lock for the running event loop."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._async_lock, self._loop = asyncio.Lock(), loop
        return self._async_lock

    def fresh(self) -> str | None:
        """Return the token unless it is to be replaced."""
        return self.token.text if self.token and time.monotonic() < self.token.replace_at else None

    def usable(self) -> str | None:
        """Return the token unless it has expired."""
        return self.token.text if self.token and time.monotonic() < self.token.ends_at else None

    def patience(self) -> float:
        """Return for how long to try: whoever has a token that is good does not wait for the next.

        Once only then, and again a moment later.
        """
        return _PATIENCE if self.usable() is None else 0.0

    def postpone(self, error: LoginRefused | TokenUnavailable) -> bool:
        """Replace the token a moment later; false if it has expired.

        A secret may just be replaced, and a token that is still good does without it.
        """
        if self.token is None or self.usable() is None:
            return False
        pause = max(_PAUSE, getattr(error, "retry_after", 0))
        later = min(time.monotonic() + pause, self.token.ends_at)
        self.token = replace(self.token, replace_at=later)
        return True


@dataclass(frozen=True, slots=True)
class _Secret:
    """Logs in by an API key or a password."""

    username: str
    read: Callable[[], str] = field(repr=False)

    def request(self, url: str, form: Mapping[str, str]) -> Flow[Send]:
        yield from ()
        return Send("POST", url, data=form, auth=(self.username, self.read()))


@dataclass(frozen=True, slots=True)
class _Workload:
    """Logs in by a token of the platform, which is requested anew each time: it may work once."""

    identity: Identity
    audience: str

    def request(self, url: str, form: Mapping[str, str]) -> Flow[Send]:
        assertion = yield from flows.call(partial(self.identity, self.audience))
        login = {"client_assertion_type": _ASSERTION, "client_assertion": assertion}
        return Send("POST", url, data={**form, **login})


class _Login:
    """Who logs in where, with the tokens that were issued."""

    def __init__(
        self, issuer: str, proof: _Secret | _Workload, *, tls: ssl.SSLContext | None
    ) -> None:
        self.issuer = issuer
        self.proof = proof
        self.tls = tls
        self._places: OrderedDict[str, _Place] = OrderedDict()
        self.begin()
        _logins.add(self)

    def begin(self) -> None:
        """Make what belongs to one process."""
        self._lock = threading.Lock()
        self._places.clear()
        self._client: httpx.Client | None = None
        self._async_client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def client(self) -> httpx.Client:
        """The connections of this process."""
        with self._lock:
            if self._client is None:
                self._client = http.client(self.issuer, tls=self.tls, owner=self)
            return self._client

    @property
    def async_client(self) -> httpx.AsyncClient:
        """The connections of the running event loop."""
        loop = asyncio.get_running_loop()
        if self._async_client is None or self._loop is not loop:
            self._async_client, self._loop = http.async_client(self.issuer, tls=self.tls), loop
        return self._async_client

    def place(self, form: Mapping[str, str]) -> _Place:
        """Return the place of the token that this form requests."""
        # SECURITY: a hash, because the form may have a token of somebody's.
        key = hashlib.sha256(repr(sorted(form.items())).encode()).hexdigest()
        with self._lock:
            place = self._places.setdefault(key, _Place())
            self._places.move_to_end(key)
            if len(self._places) > _MOST_KEPT:
                self._places.popitem(last=False)
        return place

    def request(self, form: Mapping[str, str], *, patience: float) -> Flow[_Issued]:
        """Get a token, with retries for ``patience`` seconds.

        Raises ``LoginRefused``, ``TokenUnavailable``.
        """
        began, backoff = time.monotonic(), 0.5
        while True:
            wait, fault = backoff, f"{self.issuer} issues no token now: "
            try:
                request = yield from self.proof.request(
                    f"{self.issuer.removesuffix('/')}/auth/token", form
                )
                asked_at = time.monotonic()
                response = yield from flows.send(request)
            except TRANSPORT_ERRORS as error:
                fault += f"{flows.reason(error)}."
            except TokenUnavailable as error:  # of the platform
                fault = str(error)
            else:
                if response.status_code not in _BUSY:
                    return _issued(response, asked_at)
                fault += f"status {response.status_code}."
                wait = max(backoff, _retry_after(response))
            if time.monotonic() - began + wait > patience:
                raise TokenUnavailable(fault, retry_after=int(wait) + 1) from None
            # Later than asked, each caller by another moment.
            yield Pause(wait * random.uniform(1.0, 1.3))  # noqa: S311 - to spread load
            backoff = min(backoff * 2, _LONGEST_BACKOFF)


_logins: "weakref.WeakSet[_Login]" = weakref.WeakSet()


class TokenSourceCore(http.Auth):
    """What both sources have in common."""

    def __init__(
        self,
        issuer: str | None = None,
        username: str | None = None,
        *,
        secret: str | None = None,
        secret_file: str | os.PathLike[str] | None = None,
        audience: str | None = None,
        scope: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Request nothing yet.

        What is not given comes from the environment: ``KEYOSK_CLIENT_ISSUER``,
        ``KEYOSK_CLIENT_USERNAME``, and ``KEYOSK_CLIENT_SECRET`` or ``KEYOSK_CLIENT_SECRET_FILE``.

        Args:
            issuer: Keyosk's issuer.
            username: The account.
            secret: An API key or a password.
            secret_file: A file with the secret, which is read again for each request, so that it
                may be replaced.
            audience: The service that the tokens are for; by default all services of the account.
            scope: Scopes, separated by spaces; by default all that the account holds.
            tls: How to verify Keyosk's certificate; by default as httpx does.

        Raises:
            ValueError: Something is missing, or given twice.
        """
        issuer = issuer or os.environ.get("KEYOSK_CLIENT_ISSUER")
        username = username or os.environ.get("KEYOSK_CLIENT_USERNAME")
        if not issuer or not username:
            raise ValueError(
                "issuer and username are required, here or as KEYOSK_CLIENT_ISSUER and "
                "KEYOSK_CLIENT_USERNAME"
            )
        proof = _Secret(username, _secret(secret, secret_file))
        self._login = _Login(issuer, proof, tls=tls)
        self._form = _form(audience, scope)

    @classmethod
    def from_workload(
        cls: type[S],
        issuer: str | None = None,
        *,
        identity: Identity | None = None,
        identity_audience: str | None = None,
        audience: str | None = None,
        scope: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> S:
        """Return a source that logs in by the token of this job, pod or function (RFC 7523).

        Args:
            issuer: Keyosk's issuer; by default ``KEYOSK_CLIENT_ISSUER``.
            identity: Where the platform's token is, as ``keyosk_client.workload`` has them; by
                default that of the platform that is found.
            identity_audience: The audience that the platform's token must have; by default the
                issuer.
            audience: As of a source with a secret.
            scope: The same.
            tls: The same.

        Raises:
            ValueError: There is no issuer, or no platform was found.
        """
        issuer = issuer or os.environ.get("KEYOSK_CLIENT_ISSUER")
        if not issuer:
            raise ValueError("issuer is required")
        proof = _Workload(identity or workload.detect(), identity_audience or issuer)
        return cls._derive(_Login(issuer, proof, tls=tls), _form(audience, scope))

    def __repr__(self) -> str:
        proof = self._login.proof
        name = proof.username if isinstance(proof, _Secret) else "a workload"
        return f"{type(self).__name__}({self._login.issuer!r}, {name!r})"

    def narrowed(self: S, *, audience: str | None = None, scope: str | None = None) -> S:
        """Return a source with the same login, for another audience or fewer scopes."""
        return self._derive(self._login, _form(audience, scope))

    def on_behalf_of(self: S, token: Token | str, *, audience: str, scope: str | None = None) -> S:
        """Return a source that exchanges the token of a caller (RFC 8693 section 2).

        Its tokens are for ``audience``, have the caller's ``sub`` and name this login's account in
        ``act``. An admin must have allowed it: the service's ``account`` and ``exchanges``.
        """
        exchange = {
            "grant_type": _EXCHANGE,
            "subject_token": token.text if isinstance(token, Token) else token,
            "subject_token_type": _ACCESS_TOKEN,
        }
        return self._derive(self._login, exchange | _form(audience, scope))

    @classmethod
    def _derive(cls: type[S], login: _Login, form: dict[str, str]) -> S:
        source = cls.__new__(cls)
        source._login = login
        source._form = form
        return source

    def _forget(self, text: str) -> None:
        """Drop a token that a service refused, unless it is another one by now."""
        place = self._login.place(self._form)
        if place.usable() == text:
            place.token = None


class TokenSource(TokenSourceCore):
    """Gets tokens, for threads."""

    def token(self) -> str:
        """Return a token; of all threads that need a new one, one requests it.

        Raises ``LoginRefused``, ``TokenUnavailable``.
        """
        place = self._login.place(self._form)
        text = place.fresh()
        if text is not None:
            return text
        usable = place.usable()
        # Who has a token that is still good does not wait for the one that replaces it.
        if not place.lock.acquire(blocking=usable is None):
            return usable or self.token()
        try:
            if place.fresh() is None:
                request = self._login.request(self._form, patience=place.patience())
                place.token = flows.run(request, self._login.client)
        except (LoginRefused, TokenUnavailable) as error:
            if not place.postpone(error):
                raise
        finally:
            place.lock.release()
        return place.usable() or self.token()

    def close(self) -> None:
        """Close the connections, and forget all tokens of this login."""
        self._login.client.close()
        self._login.begin()

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """Set the ``Authorization`` header; if the token is refused, try another one once."""
        text = self.token()
        response = yield _authorized(request, text)
        if response.status_code == 401 and isinstance(request.stream, http.REPEATABLE):
            self._forget(text)
            yield _authorized(request, self.token())

    def __call__(self, request: Any) -> Any:
        """Set the header of a request of requests (``requests.auth``)."""
        request.headers["Authorization"] = f"Bearer {self.token()}"
        return request


class AsyncTokenSource(TokenSourceCore):
    """Gets tokens, for asyncio."""

    async def token(self) -> str:
        """Return a token; of all tasks that need a new one, one requests it.

        Raises ``LoginRefused``, ``TokenUnavailable``.
        """
        place = self._login.place(self._form)
        text = place.fresh()
        if text is not None:
            return text
        lock, usable = place.lock_of_loop(), place.usable()
        if usable is not None and lock.locked():
            return usable
        async with lock:
            try:
                if place.fresh() is None:
                    request = self._login.request(self._form, patience=place.patience())
                    place.token = await flows.run_async(request, self._login.async_client)
            except (LoginRefused, TokenUnavailable) as error:
                if not place.postpone(error):
                    raise
        return place.usable() or await self.token()

    async def aclose(self) -> None:
        """Close the connections, and forget all tokens of this login."""
        await self._login.async_client.aclose()
        self._login.begin()

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Set the ``Authorization`` header; if the token is refused, try another one once."""
        text = await self.token()
        response = yield _authorized(request, text)
        if response.status_code == 401 and isinstance(request.stream, http.REPEATABLE):
            self._forget(text)
            yield _authorized(request, await self.token())


def _authorized(request: httpx.Request, text: str) -> httpx.Request:
    request.headers["Authorization"] = f"Bearer {text}"
    return request


def _form(audience: str | None, scope: str | None) -> dict[str, str]:
    fields = {"audience": audience, "scope": scope}
    return {name: value for name, value in fields.items() if value is not None}


def _secret(secret: str | None, secret_file: str | os.PathLike[str] | None) -> Callable[[], str]:
    if secret is None and secret_file is None:
        secret = os.environ.get("KEYOSK_CLIENT_SECRET")
        secret_file = os.environ.get("KEYOSK_CLIENT_SECRET_FILE")
    if bool(secret) == bool(secret_file):
        raise ValueError("either secret or secret_file is required")
    if secret_file:
        return partial(_secret_in, Path(secret_file))
    return lambda: str(secret)


def _secret_in(path: Path) -> str:
    """Return the secret in a file, without the byte order mark and white space around it.

    Raises ``LoginRefused``.
    """
    try:
        secret = path.read_text(encoding="utf-8").strip("\ufeff \t\r\n")
    except OSError as error:
        raise LoginRefused("no_secret", f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        secret = ""
    if not secret:
        raise LoginRefused("no_secret", f"There is no secret in {path}.")
    return secret


def _issued(response: httpx.Response, asked_at: float) -> _Issued:
    """Return the token of a response. Raises ``LoginRefused``."""
    try:
        body = response.json()
        if response.status_code == 200:
            text, lasts = body["access_token"], float(body["expires_in"])
            # SECURITY: what is no token would become a part of headers; NaN is no number at all.
            if not (1 <= lasts < _FOREVER and _TOKEN.fullmatch(text)):
                raise ValueError
            early = min(_EARLY, lasts * _EARLY_PART)
            return _Issued(text, asked_at + lasts - early, asked_at + lasts)
        error, description = str(body["error"]), str(body.get("error_description", ""))
    except (ValueError, TypeError, LookupError, AttributeError):
        error = "invalid_response"
        description = (
            f"{response.url!s:.200} did not answer as Keyosk (status {response.status_code})."
        )
    raise LoginRefused(error, description)


def _retry_after(response: httpx.Response) -> float:
    said = response.headers.get("Retry-After", "")
    return float(said) if said.isascii() and said.isdecimal() and len(said) < 7 else 0.0


def _after_fork() -> None:
    for login in list(_logins):
        login.begin()


os.register_at_fork(after_in_child=_after_fork)


def reset(issuer: str) -> None:
    """Have all sources of an issuer forget their tokens (``testing``)."""
    for login in list(_logins):
        if login.issuer == issuer:
            login.begin()
