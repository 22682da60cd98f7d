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

#: What a flow has raised where a request failed.
TRANSPORT_ERRORS: Final = (httpx.HTTPError, httpx.InvalidURL)


@dataclass(frozen=True, slots=True)
class Send:
    """Send this request."""

    method: str
    url: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] | None = field(default=None, repr=False)
    auth: tuple[str, str] | None = field(default=None, repr=False)

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
                    result = client.request(**step.options())
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
                    result = await client.request(**step.options())
            except Exception as error:  # noqa: BLE001 - the flow decides
                step = flow.throw(error)
            else:
                step = flow.send(result)
    except StopIteration as end:
        value: T = end.value
        return value
