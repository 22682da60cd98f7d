"""A Keyosk on another machine: its URL, the login there, and the connection."""

import base64
import ipaddress
import re
import signal
import socket
import ssl
import time
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import httpx2

from keyosk import strict_json
from keyosk.cli import logins
from keyosk.cli.client import Client, Reply
from keyosk.cli.logins import Changes, Login
from keyosk.cli.refusals import Refused

_AuthFlow = Generator[httpx2.Request, httpx2.Response, None]
#: Seconds before its expiry at which an access token is renewed.
_EARLY: Final = 30
_HOST: Final = re.compile(r"[A-Za-z0-9._:-]+")
_UNIX: Final = "unix:"
_LONGEST: Final = 10 * 365 * 86_400
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{1,16384}")
_API_KEY: Final = "kysk_"
_REFRESH_TOKEN: Final = "kysr_"  # noqa: S105 - how one begins
#: What Keyosk answers to a login that is over, and no proxy on the way does.
_OVER: Final = frozenset({"invalid_grant", "invalid_token", "bad_credentials", "not_found"})
#: Signals that are deferred between the use of a refresh token and storing the next one.
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def server_of(text: str, *, allow_http: bool) -> str:
    """Return a server's URL in canonical form. Raises ``Refused`` if it is invalid or unsafe."""
    if text.startswith(f"{_UNIX}/"):
        return text  # no network in between
    try:
        url = httpx2.URL(text)
    except (httpx2.InvalidURL, ValueError):
        url = httpx2.URL("")
    is_host = _HOST.fullmatch(url.raw_host.decode("ascii"))
    if url.scheme not in ("https", "http") or not is_host or url.query or url.fragment:
        raise Refused(
            "A server is named by its URL, such as https://keyosk.example.com, or as "
            "unix:/run/keyosk.sock, in --server or KEYOSK_URL."
        )
    if url.userinfo:
        # SECURITY: nothing of it is repeated; other users of the machine have seen it.
        raise Refused(
            "A server's URL must not have a password in it: change that password, and use "
            "keyosk login."
        )
    if url.scheme == "http" and not allow_http and not is_loopback(url.host):
        raise Refused(
            "Without TLS everybody on the way could read passwords and tokens: use https. Where "
            "the network itself is encrypted, --allow-http accepts http."
        )
    return str(url.copy_with(path=url.path.rstrip("/"))).rstrip("/")


@contextmanager
def client(server: str) -> Iterator[Client]:
    """Return a client of a server's API, with the stored login."""
    with _http(server) as http:
        session = _Session(Client(http, server), server)
        yield Client(http, server, auth=session, login=_again(server))


@contextmanager
def anonymous(server: str) -> Iterator[Client]:
    """Return a client of a server's API without a login."""
    with _http(server) as http:
        yield Client(http, server)


def certificate_end(server: str) -> float:
    """Return when the certificate of a server expires, in seconds since 1970.

    Raises ``OSError`` if the server cannot be reached or its certificate is not trusted.
    """
    url = httpx2.URL(server)
    address = (url.host, url.port or 443)
    with (
        socket.create_connection(address, timeout=15) as plain,
        ssl.create_default_context().wrap_socket(plain, server_hostname=url.host) as secured,
    ):
        certificate = secured.getpeercert() or {}
    return float(ssl.cert_time_to_seconds(str(certificate["notAfter"])))


def log_in(server: str, username: str, secret: str) -> Login:
    """Get tokens for a password or an API key, and store them. Raises ``Refused``."""
    alone = secret.startswith(_API_KEY)
    auth = httpx2.BasicAuth("" if alone else username, secret)
    with _http(server) as http, logins.changing() as changes:
        fields = {"audience": "keyosk", "scope": "offline_access"}
        reply = Client(http, server, auth=auth).form("auth", "token", fields=fields)
        login = _login_of(reply, server)
        old = changes.find(server)
        changes.put(server, login)
        if old is not None:
            # End the replaced session; if that fails, it expires by itself.
            with suppress(Refused):
                _delete_session(http, server, old, access_token=login.access_token)
    return login


def log_out(server: str, *, forget: bool = False) -> bool:
    """End the login at a server and delete it; returns false if there is none.

    ``forget``: without a request to the server, so that a copy of the tokens still works.
    """
    with logins.changing() as changes:
        login = changes.find(server)
        if login is None:
            return False
        if not forget:
            try:
                _end_session(server, login, changes)
            except Refused as refused:
                if refused.code not in _OVER:
                    raise
        changes.put(server, None)
    return True


def _end_session(server: str, login: Login, changes: Changes) -> None:
    """End the session of a login, with a new access token if need be. Raises ``Refused``."""
    with _http(server) as http, _uninterrupted():
        if login.expires_at <= time.time() + _EARLY:
            login = _refreshed(Client(http, server), login, server)
            changes.put(server, login)
        _delete_session(http, server, login, access_token=login.access_token)


class _Session(httpx2.Auth):
    """Adds the access token of a login to requests, and renews it before it expires."""

    def __init__(self, anonymous: Client, server: str) -> None:
        self._anonymous = anonymous
        self._server = server
        self._login: Login | None = None

    def auth_flow(
        self, request: httpx2.Request
    ) -> Generator[httpx2.Request, httpx2.Response, None]:
        login = self._current()
        request.headers["Authorization"] = f"Bearer {login.access_token}"
        response = yield request
        # A streamed body was sent already.
        if response.status_code == httpx2.codes.UNAUTHORIZED and isinstance(
            request.stream, httpx2.ByteStream
        ):
            renewed = self._renewed(login)
            request.headers["Authorization"] = f"Bearer {renewed.access_token}"
            yield request

    def _current(self) -> Login:
        login = self._login or logins.find(self._server)
        if login is None:
            raise Refused(f"You are not logged in at {self._server}. {_again(self._server)}")
        if login.expires_at <= time.time() + _EARLY:
            login = self._renewed(login)
        self._login = login
        return login

    def _renewed(self, stale: Login) -> Login:
        """Return the login with a new access token, perhaps one that another command just got."""
        with logins.changing() as changes:
            login = changes.find(self._server)
            if login is None:
                raise Refused(f"You are not logged in at {self._server}. {_again(self._server)}")
            if login.access_token == stale.access_token:
                login = self._renew(login, changes)
        self._login = login
        return login

    def _renew(self, stale: Login, changes: Changes) -> Login:
        """Renew a login and store it; one that is over is deleted. Raises ``Refused``."""
        with _uninterrupted():
            try:
                login = _refreshed(self._anonymous, stale, self._server)
            except Refused as refused:
                if refused.code in _OVER:
                    changes.put(self._server, None)
                raise
            changes.put(self._server, login)
        return login


def _refreshed(anonymous: Client, login: Login, server: str) -> Login:
    """Use the refresh token of a login. Raises ``Refused``."""
    if login.refresh_token is None:
        raise Refused(f"Your login at {server} has ended. {_again(server)}", code="invalid_grant")
    fields = {"grant_type": "refresh_token", "refresh_token": login.refresh_token}
    try:
        try:
            reply = anonymous.form("auth", "token", fields=fields)
        except Refused as refused:
            if refused.status:
                raise
            # The response was lost; for a few seconds, the same request gets the same token.
            reply = anonymous.form("auth", "token", fields=fields)
    except Refused as refused:
        if refused.code not in _OVER:
            raise
        raise Refused(
            f"Your login at {server} has ended: {refused.sentences[0]} {_again(server)}",
            code=refused.code,
        ) from None
    return _login_of(reply, server)


def _delete_session(http: httpx2.Client, server: str, login: Login, *, access_token: str) -> None:
    """End the session of a login. Raises ``Refused``."""
    session = _session_of(login.refresh_token)
    if session is not None:
        Client(http, server, auth=_Bearer(access_token)).delete("accounts", "me", "tokens", session)


class _Bearer(httpx2.Auth):
    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(
        self, request: httpx2.Request
    ) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


def _login_of(reply: Reply, server: str) -> Login:
    """Return the login in a token response (RFC 6749 section 5.1). Raises ``Refused``."""
    access, refresh = reply.body.get("access_token"), reply.body.get("refresh_token")
    seconds = reply.body.get("expires_in")
    if not (
        isinstance(access, str)
        and _TOKEN.fullmatch(access)
        and (refresh is None or (isinstance(refresh, str) and _TOKEN.fullmatch(refresh)))
        and type(seconds) is int
        and 0 <= seconds < _LONGEST
    ):
        raise Refused(f"{server} gives tokens that are not Keyosk's. Is it the right URL?")
    return Login(_username_of(access), access, int(time.time()) + seconds, refresh)


def _username_of(token: str) -> str:
    """Return the username in a token, unverified, for people only."""
    try:
        part = token.split(".")[1]
        claims = strict_json.parse(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)).decode())
        return str(claims["preferred_username"])
    except (LookupError, ValueError, TypeError):
        return "unknown"


def _session_of(refresh_token: str | None) -> str | None:
    """Return the id of the session of a refresh token (tokens.refresh_token_format)."""
    if refresh_token is None or not refresh_token.startswith(_REFRESH_TOKEN):
        return None
    part = refresh_token.removeprefix(_REFRESH_TOKEN)
    try:
        return str(uuid.UUID(bytes=base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))[:16]))
    except ValueError:
        return None


def _http(server: str) -> httpx2.Client:
    is_tls = server.startswith("https://")
    path = server.removeprefix(_UNIX) if server.startswith(_UNIX) else None
    return httpx2.Client(
        base_url=server if path is None else "http://localhost",
        transport=None if path is None else httpx2.HTTPTransport(uds=path),
        # The system's authorities or those of SSL_CERT_FILE; none are needed without TLS.
        verify=ssl.create_default_context() if is_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        # SECURITY: without TLS, a proxy would read everything.
        trust_env=is_tls,
        # SECURITY: a redirect would send the login elsewhere.
        follow_redirects=False,
        headers={"User-Agent": "keyosk", "Accept": "application/json"},
    )


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Defer signals: after a refresh token was used, the next one must be stored."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_loopback(host: str) -> bool:
    """Return whether a host name means this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _again(server: str) -> str:
    return f"Log in: keyosk login --server {server}"
