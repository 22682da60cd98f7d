"""Steps that are the same with threads and with asyncio, written once.

A flow is a generator. It yields a ``Send``, and gets the response or has the transport's error
raised; or a ``Call``, and gets its result or has its error raised; or a ``Pause``. It returns its
result.
"""

import asyncio
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import httpx

T = TypeVar("T")

#: Headers that are not about a body that was decompressed.
_OF_TRANSFER: Final = (b"content-encoding", b"content-length", b"transfer-encoding")

#: What a flow has raised where a request failed.
TRANSPORT_ERRORS: Final = (httpx.HTTPError, httpx.InvalidURL)
#: Seconds for a whole response. SECURITY: httpx limits each step, and one that sends a byte now and
#: then would keep all who wait for it.
DEADLINE: Final = 15.0
_LATE: Final = f"the response took longer than {DEADLINE:.0f} seconds"
#: The most bytes of a response, decompressed; Keyosk's documents are smaller.
_LARGEST: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Send:
    """Send this request."""

    method: str
    url: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] | None = field(default=None, repr=False)
    auth: tuple[str, str] | None = field(default=None, repr=False)
    largest: int = _LARGEST

    def options(self) -> dict[str, Any]:
        """Return it as the arguments of httpx's ``request``."""
        return {
            "method": self.method,
            "url": self.url,
            "params": dict(self.params) or None,
            "headers": dict(self.headers),
            "data": self.data,
            # SECURITY: no redirect is followed, because it would lead away from the issuer.
            "follow_redirects": False,
            "auth": None if self.auth is None else httpx.BasicAuth(*self.auth),
        }


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Call:
    """Call a function that may wait, in a thread if others must not wait for it."""

    function: Callable[[], str]


Flow = Generator[Send | Pause | Call, Any, T]


def send(step: Send) -> Flow[httpx.Response]:
    """Have a request sent, and return the response. Raises one of ``TRANSPORT_ERRORS``."""
    response: httpx.Response = yield step
    return response


def call(function: Callable[[], str]) -> Flow[str]:
    """Have a function called that may wait, and return its result. Raises what it raises."""
    result: str = yield Call(function)
    return result


def run(flow: Flow[T], client: httpx.Client) -> T:
    """Run a flow in this thread."""
    try:
        step = next(flow)
        while True:
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                step = flow.send(None)
                continue
            try:
                if isinstance(step, Call):
                    result: Any = step.function()
                else:
                    result = _sent(client, step)
            except Exception as error:  # noqa: BLE001 - the flow decides
                step = flow.throw(error)
            else:
                step = flow.send(result)
    except StopIteration as end:
        value: T = end.value
        return value


async def run_async(flow: Flow[T], client: httpx.AsyncClient) -> T:
    """Run a flow in this task."""
    try:
        step = next(flow)
        while True:
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                step = flow.send(None)
                continue
            try:
                if isinstance(step, Call):
                    result: Any = await asyncio.to_thread(step.function)
                else:
                    result = await _sent_async(client, step)
            except Exception as error:  # noqa: BLE001 - the flow decides
                step = flow.throw(error)
            else:
                step = flow.send(result)
    except StopIteration as end:
        value: T = end.value
        return value


class _Body:
    """The body of a response, piece by piece, until there is too much or it takes too long."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._ends = time.monotonic() + DEADLINE
        self._content = bytearray()

    def add(self, piece: bytes) -> None:
        """Take a piece. Raises ``httpx.HTTPError``."""
        self._content += piece
        if len(self._content) > self._largest:
            raise httpx.RemoteProtocolError(f"the response has more than {self._largest} bytes")
        if time.monotonic() > self._ends:
            raise httpx.ReadTimeout(_LATE)

    def response(self, begun: httpx.Response) -> httpx.Response:
        """Return the response with this body, which is decompressed."""
        headers = [each for each in begun.headers.raw if each[0].lower() not in _OF_TRANSFER]
        return httpx.Response(
            begun.status_code, headers=headers, content=bytes(self._content), request=begun.request
        )


def _sent(client: httpx.Client, step: Send) -> httpx.Response:
    body = _Body(step.largest)
    with client.stream(**step.options()) as begun:
        for piece in begun.iter_bytes():
            body.add(piece)
        return body.response(begun)


async def _sent_async(client: httpx.AsyncClient, step: Send) -> httpx.Response:
    async def whole() -> httpx.Response:
        body = _Body(step.largest)
        async with client.stream(**step.options()) as begun:
            async for piece in begun.aiter_bytes():
                body.add(piece)
            return body.response(begun)

    try:
        return await asyncio.wait_for(whole(), DEADLINE)
    except asyncio.TimeoutError:
        raise httpx.ReadTimeout(_LATE) from None


def reason(error: Exception) -> str:
    """Return what a log may have: our own words, or the kind of a transport's error."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"{error.response.url!s:.200} returned status {error.response.status_code}"
    if isinstance(error, httpx.ConnectError):
        # Words of the system and of OpenSSL, not of the other side: refused, unknown, untrusted.
        return f"ConnectError: {error!s:.200}"
    return str(error) if type(error) is ValueError else type(error).__name__
