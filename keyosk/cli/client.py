"""A client of the REST API, the same over HTTPS and inside this process.

Owns requests, paging, and the messages for refusals. A transport carries the requests.

SECURITY: responses are not trusted: their format is checked, their size is limited, and their text
is printed only through ``shared.printable`` or ``shared.fitting``.
"""

import json
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from itertools import islice, pairwise
from typing import Any, Final
from urllib.parse import quote, urlencode

import httpx2

from keyosk.cli.refusals import Refused
from keyosk.model import OWN_SET_ALGORITHMS

_PAGE: Final = 200
#: The most bytes of a response in memory; pages and manifests are far smaller.
_LARGEST: Final = 64 * 1024 * 1024
#: The most characters of a server's message that are shown.
_LONGEST: Final = 2_000
#: Timeouts in seconds, of usual requests and of streamed ones.
_TIMEOUT: Final = httpx2.Timeout(60, connect=15)
_STREAM_TIMEOUT: Final = httpx2.Timeout(600, connect=15)
_JSON_TYPES: Final = ("application/json", "application/problem+json")
#: Messages for missing objects, by the path segment before their name: the API's, and ours.
_NO_SUCH: Final[Mapping[str, tuple[str, str]]] = {
    "accounts": ("There is no such account.", "no such account"),
    "services": ("There is no such service.", "no such service"),
    "roles": ("There is no such role.", "no such role"),
    "signing-keys": ("There is no such signing key.", "no such signing key"),
    "api-keys": (
        "This account has no such API key.",
        "no such API key of {owner}; see keyosk api-key list {owner}",
    ),
    "tokens": ("This account has no such session.", "no such session of {owner}"),
}
#: Path segments that have their own meaning in place of a name.
_RESERVED: Final = frozenset(
    {"accounts/import", "accounts/export", "signing-keys/import", "signing-keys/rotate"}
)

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """A response: the JSON object in its body, and its entity tag.

    ``effective_at_latest``: when a change that removed rights has reached every service.
    """

    body: dict[str, Any]
    etag: str | None = None
    effective_at_latest: str | None = None


class Client:
    """Sends requests. Raises ``Refused`` for every request that fails."""

    def __init__(
        self, http: httpx2.Client, name: str, *, auth: httpx2.Auth | None = None, login: str = ""
    ) -> None:
        """``name``: the server, for messages. ``login``: how to log in again."""
        self._http = http
        self._name = name
        self._auth = auth
        self._login = login

    def get(self, *path: str, **query: str) -> Reply:
        """Send a GET request."""
        return self._send("GET", path, query=query)

    def post(self, *path: str, body: Body | None = None, **query: str) -> Reply:
        """Send a POST request."""
        return self._send("POST", path, body=body, query=query)

    def form(self, *path: str, fields: Mapping[str, str]) -> Reply:
        """Send an OAuth request with form fields (RFC 6749 appendix B)."""
        return self._send(
            "POST",
            path,
            query={},
            content=urlencode(fields).encode(),
            media_type="application/x-www-form-urlencoded",
        )

    def put(self, *path: str, body: Body, etag: str | None = None, **query: str) -> Reply:
        """Send a PUT request; ``etag``: only for that version."""
        return self._send("PUT", path, body=body, query=query, etag=etag)

    def patch(self, *path: str, body: Body, etag: str | None = None, **query: str) -> Reply:
        """Send a PATCH request; ``etag``: only for that version."""
        return self._send("PATCH", path, body=body, query=query, etag=etag)

    def delete(self, *path: str, **query: str) -> Reply:
        """Send a DELETE request."""
        return self._send("DELETE", path, query=query)

    def issuer(self) -> str:
        """Return the issuer of this Keyosk's tokens."""
        issuer = self.get(".well-known", "oauth-authorization-server").body.get("issuer")
        if not isinstance(issuer, str):
            raise self._strange()
        return issuer

    def clock(self) -> float | None:
        """Return the time by the server's clock, to the second, if its responses have one."""
        with self._exchange(
            "GET", ("health", "live"), params={}, content=None, headers={}, timeout=_TIMEOUT
        ) as response:
            _read(response)
        try:
            return parsedate_to_datetime(response.headers["Date"]).timestamp()
        except (KeyError, ValueError, TypeError):
            return None

    def public_key(self, kid: str | None) -> dict[str, Any]:
        """Return a published key as a JWK; by default the one that signs now."""
        for key in self._published():
            if kid is None or key.get("kid") == kid:
                return key
        raise Refused("There is no such published key.", code="not_found", status=404)

    def _published(self) -> Iterator[dict[str, Any]]:
        """Return the common key set, then those of services with a set of their own."""
        yield from self._key_set("auth", "jwks")
        for service in self.items("services"):
            if service.get("signing_algorithm") in OWN_SET_ALGORITHMS:
                yield from self._key_set("services", str(service.get("id")), "jwks")

    def _key_set(self, *path: str) -> list[dict[str, Any]]:
        keys = self.get(*path).body.get("keys")
        if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
            raise self._strange()
        return keys

    def items(self, *path: str, most: int | None = None, **query: str) -> Iterator[dict[str, Any]]:
        """Yield the items of a list, page by page, up to ``most``."""
        yield from islice(self._items(path, min(most or _PAGE, _PAGE), query), most)

    def _items(
        self, path: tuple[str, ...], size: int, query: Mapping[str, str]
    ) -> Iterator[dict[str, Any]]:
        cursor: dict[str, str] = {}
        while True:
            page = self.get(*path, limit=str(size), **query, **cursor).body
            items, following = page.get("items"), page.get("next")
            if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                raise self._strange()
            yield from items
            if following is None:
                return
            if not isinstance(following, str) or cursor == {"cursor": following}:
                raise self._strange()
            cursor = {"cursor": following}

    @contextmanager
    def lines(
        self, method: str, *path: str, content: Iterable[bytes] | None = None, **query: str
    ) -> Iterator[Iterator[str]]:
        """Yield the lines of a response as they arrive; ``content``: JSON Lines to send."""
        headers = {} if content is None else {"Content-Type": "application/jsonl"}
        with self._exchange(
            method, path, params=query, content=content, headers=headers, timeout=_STREAM_TIMEOUT
        ) as response:
            if response.status_code != httpx2.codes.OK:
                raise self._refusal(response, _read(response), path, {})
            yield _split(response)

    def _send(
        self,
        method: str,
        path: tuple[str, ...],
        *,
        query: Mapping[str, str],
        body: Body | None = None,
        content: bytes | None = None,
        media_type: str = "application/json",
        etag: str | None = None,
    ) -> Reply:
        content = content if body is None else _encoded(body)
        headers = {} if content is None else {"Content-Type": media_type}
        if etag is not None:
            headers["If-Match"] = etag
        with self._exchange(
            method, path, params=query, content=content, headers=headers, timeout=_TIMEOUT
        ) as response:
            text = _read(response)
        if not response.is_success:
            raise self._refusal(response, text, path, body or {})
        if response.status_code == httpx2.codes.NO_CONTENT:
            return Reply({})
        document = _document(response, text)
        if document is None:
            raise self._strange()
        effective = document.pop("effective_at_latest", None)
        return Reply(document, response.headers.get("ETag"), effective)

    @contextmanager
    def _exchange(
        self, method: str, path: tuple[str, ...], **options: Any
    ) -> Iterator[httpx2.Response]:
        """Send a request and return the response. Raises ``Refused`` if the network fails."""
        place = _path(path)
        try:
            with self._http.stream(method, place, auth=self._auth, **options) as response:
                yield response
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL) as error:
            message = self._network_message(error)
        else:
            return
        # SECURITY: outside the handler, because the exception holds the request with its secrets.
        raise Refused(message)

    def _network_message(self, error: Exception) -> str:
        """Return the message for a network error, with what to do."""
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ssl.SSLError):
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"{self._name} has a certificate that is not trusted here: {cause.verify_message}. "
                "If an authority of your own made it, name that one's file in SSL_CERT_FILE."
            )
        if isinstance(cause, ssl.SSLError):
            return f"TLS with {self._name} failed ({cause.reason}). Is it the right URL?"
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError):
            why = _reason(error)
            return f"{self._name} cannot be reached: {why}. Is it running, and the URL right?"
        if isinstance(error, httpx2.TimeoutException):
            return (
                f"{self._name} did not respond in time. It may have done what the request asks "
                "for: look before you send it again."
            )
        return (
            f"The connection to {self._name} broke. It may have done what the request asks for: "
            "look before you send it again."
        )

    def _refusal(
        self, response: httpx2.Response, text: bytes, path: tuple[str, ...], body: Body
    ) -> Refused:
        """Return the message for a refusal (RFC 9457), in the words of commands."""
        if response.has_redirect_location:
            place = response.headers["Location"][:_LONGEST]
            return Refused(
                f"{self._name} redirects to {place}. If that is your Keyosk, name it with "
                "--server.",
                status=response.status_code,
            )
        problem = _document(response, text) or {}
        detail = problem.get("detail", problem.get("error_description"))
        code = problem.get("code", problem.get("error"))
        if not isinstance(detail, str) or not isinstance(code, str):
            return self._strange(response.status_code)
        sentences = [_named(detail, path)]
        if response.status_code == httpx2.codes.UNAUTHORIZED and self._login:
            sentences = [f"{detail} {self._login}"]
        if code == "invalid":
            sentences = _faults(problem.get("errors")) or sentences
        if code == "conflict":
            sentences = [_with_value(detail, problem.get("errors"), body)]
        if code == "in_use":
            sentences = [f"{detail} Repeat with --force to remove it."]
        return Refused(
            *(sentence[:_LONGEST] for sentence in sentences), code=code, status=response.status_code
        )

    def _strange(self, status: int = 200) -> Refused:
        return Refused(
            f"{self._name} does not respond as Keyosk does (status {status}). Is it the right URL?",
            status=status,
        )


def _encoded(body: Body) -> bytes:
    """Return a body as JSON. Raises ``Refused`` for a number that JSON cannot express."""
    try:
        return json.dumps(body, allow_nan=False).encode()
    except ValueError:
        raise Refused("There is a number in it that is not finite.") from None


def _path(segments: tuple[str, ...]) -> str:
    """Return the path of these segments. Raises ``Refused`` for a name that no path can have."""
    for before, name in pairwise(segments):
        messages = _NO_SUCH.get(before)
        if messages and (not name or "/" in name or f"{before}/{name}" in _RESERVED):
            raise Refused(_named(messages[0], segments), code="not_found", status=404)
    # A segment of dots would change the path. The first segment is not a name.
    return f"/{segments[0]}" + "".join(
        "/" + (quote(segment, safe="") if segment.strip(".") else segment.replace(".", "%2E"))
        for segment in segments[1:]
    )


def _named(detail: str, path: tuple[str, ...]) -> str:
    """Return the message for a missing object, with its name from the path."""
    owner = path[1] if len(path) > 1 else ""
    for before, name in pairwise(path):
        message, short = _NO_SUCH.get(before, ("", ""))
        if message == detail:
            return f"{name or repr(name)}: {short.format(owner=owner)}"
    return detail


def _read(response: httpx2.Response) -> bytes:
    """Return the whole body. Raises ``Refused`` if it is too large."""
    pieces, size = [], 0
    for piece in response.iter_bytes():
        size += len(piece)
        if size > _LARGEST:
            raise Refused("The server's response is larger than any that Keyosk gives.")
        pieces.append(piece)
    return b"".join(pieces)


def _split(response: httpx2.Response) -> Iterator[str]:
    """Yield the lines of a streamed response; only LF ends one. Raises ``Refused``, ``OSError``."""
    rest = b""
    for piece in response.iter_bytes():
        first, *others = piece.split(b"\n")
        rest += first
        for following in others:
            yield rest.decode(errors="replace")
            rest = following
        if len(rest) > _LARGEST:
            raise Refused("The server's response has a line longer than any that Keyosk gives.")
    if rest:
        yield rest.decode(errors="replace")


def _reason(error: Exception) -> str:
    """Return the reason why a connection failed, as the system states it."""
    if isinstance(error, httpx2.ConnectTimeout):
        return "no response"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return "no connection"


def _document(response: httpx2.Response, text: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a response, if it has one."""
    if response.headers.get("Content-Type", "").partition(";")[0].strip() not in _JSON_TYPES:
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _with_value(detail: str, errors: Any, body: Body) -> str:
    """Return the message for a conflict, which has the value that another object has."""
    fields = [str(fault.get("field")) for fault in errors or () if isinstance(fault, dict)]
    values = [body[field] for field in fields if isinstance(body.get(field), str)]
    return f"{values[0]}: {detail}" if values and values[0] not in detail else detail


def _faults(errors: Any) -> list[str]:
    if not isinstance(errors, list):
        return []
    return [
        f"{fault.get('field')}: {fault.get('message')}"
        for fault in errors
        if isinstance(fault, dict)
    ]
