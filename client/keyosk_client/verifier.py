"""Verifiers: one for threads, one for asyncio, around the same core."""

import asyncio
import logging
import os
import ssl
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Final, TypedDict

import httpx

from keyosk_client import flows, http
from keyosk_client.flows import Flow
from keyosk_client.issuer import IssuerState, Revocations
from keyosk_client.token import Token
from keyosk_client.token_rules import TokenRules, bearer

#: Seconds that the end of the process waits for a thread.
_MOST_WAITED: Final = 1.0
#: The fewest seconds between two refreshes.
_SHORTEST_WAIT: Final = 0.1

_log = logging.getLogger("keyosk_client")
_verifiers: "weakref.WeakSet[VerifierCore]" = weakref.WeakSet()


class VerifierOptions(TypedDict, total=False):
    """The keyword arguments of ``Verifier``, as integrations pass them on."""

    revocations: Revocations
    poll_interval: float
    leeway: float
    max_stale: float
    typ: str
    service: str | None
    tls: ssl.SSLContext | None


class VerifierCore(ABC):
    """The base of both verifiers."""

    def __init__(
        self,
        issuer: str,
        audience: str | Iterable[str],
        *,
        revocations: Revocations = "best-effort",
        poll_interval: float = 10,
        leeway: float = 10,
        max_stale: float = 86_400,
        typ: str = "at+jwt",
        service: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Store the options. The first token fetches the keys.

        Args:
            issuer: Keyosk's issuer (``KEYOSK_ISSUER``), letter by letter: the ``iss`` of tokens.
            audience: The audience of this service, or several.
            revocations: ``best-effort`` follows the list and goes on with what it has while Keyosk
                is unavailable; ``required`` then raises ``RevocationsUnavailable``, after six poll
                intervals; ``off`` accepts revoked tokens until they expire.
            poll_interval: Seconds between two requests for revocations.
            leeway: Seconds by which clocks may differ.
            max_stale: Seconds that keys are used while Keyosk is unavailable.
            typ: The token type of the service, if it has its own (RFC 9068 section 2.1).
            service: The name of the service at Keyosk, by which a rotation knows that this service
                has the new key. The audience by default.
            tls: How to verify Keyosk's certificate; by default as httpx does.

        Raises:
            ValueError: An argument is not valid.
        """
        audiences = [audience] if isinstance(audience, str) else list(audience)
        if not audiences or not all(audiences):
            raise ValueError("audience must not be empty")
        self.audience = audiences[0]
        self.issuer = issuer
        self._rules = TokenRules(
            issuer, audiences, (typ.lower(), f"application/{typ.lower()}"), leeway
        )
        self._state = IssuerState(
            issuer,
            service=service or self.audience,
            revocations=revocations,
            poll_interval=poll_interval,
            max_stale=max_stale,
        )
        self._tls = tls
        self._start()
        _verifiers.add(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.issuer!r}, {self.audience!r})"

    @abstractmethod
    def _start(self) -> None:
        """Create what belongs to one process or one event loop."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all keys and revocations; the next token fetches them."""


class Verifier(VerifierCore):
    """Verifies tokens, with a thread in the background that follows keys and revocations.

    It may be shared by threads and made before a fork. The thread starts with the first token, and
    ends with the verifier or the process.
    """

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None
        self._stop: weakref.finalize[..., Verifier] | None = None

    def verify(self, token: str) -> Token:
        """Verify a token.

        Raises ``InvalidToken``, ``KeysUnavailable``, ``RevocationsUnavailable``.
        """
        header = self._rules.header(token)
        if self._stop is None:
            self._follow()
        key = self._state.key(header.kid)
        if key is None:
            self._run(self._state.fetch_key(header.kid))
            key = self._state.key_or_refuse(header.kid)
        verified = self._rules.check(token, key)
        self._state.check_revoked(header.kid, verified)
        return verified

    def authorize(self, authorization: str | None, *scopes: str) -> Token:
        """Verify the token of an ``Authorization`` header, and that it has all of these scopes.

        Raises ``NoToken``, ``InsufficientScope``, and what ``verify`` raises.
        """
        token = self.verify(bearer(authorization))
        token.require(*scopes)
        return token

    def close(self) -> None:
        """End the thread and the connections. A token that is verified later starts them again."""
        if self._stop is not None:
            self._stop()
        with self._lock:
            if self._client is not None:
                self._client.close()
        self._start()

    def reset(self) -> None:
        """Forget all keys and revocations; the next token fetches them."""
        self.close()
        self._state.reset()

    def _run(self, flow: Flow[None]) -> None:
        with self._lock:
            if self._client is None:  # the first one in this process
                self._client = http.client(self.issuer, tls=self._tls, owner=self)
            flows.run(flow, self._client)

    def _follow(self) -> None:
        with self._lock:
            if self._stop is None:
                ended = threading.Event()
                thread = threading.Thread(
                    target=_follow,
                    args=(weakref.ref(self), ended),
                    name="keyosk-client",
                    daemon=True,
                )
                self._stop = weakref.finalize(self, _end, ended, thread)
                thread.start()


def _follow(reference: "weakref.ref[Verifier]", ended: threading.Event) -> None:
    due_in = 0.0
    while not ended.wait(due_in):
        verifier = reference()
        if verifier is None:
            return
        try:
            verifier._run(verifier._state.refresh())
        except Exception as error:  # noqa: BLE001 - whatever it is, the next turn may help
            _log.error("keys and revocations were not refreshed: %s", type(error).__name__)
        due_in = max(_SHORTEST_WAIT, verifier._state.due_in)
        del verifier  # it may end while this waits


def _end(ended: threading.Event, thread: threading.Thread) -> None:
    ended.set()
    if thread is not threading.current_thread():
        thread.join(_MOST_WAITED)


class AsyncVerifier(VerifierCore):
    """Verifies tokens in an event loop, which it never blocks for the network.

    A task follows keys and revocations. It starts with the first token, and ends with the loop.
    """

    def _start(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    async def verify(self, token: str) -> Token:
        """Verify a token.

        Raises ``InvalidToken``, ``KeysUnavailable``, ``RevocationsUnavailable``.
        """
        header = self._rules.header(token)
        if self._loop is not asyncio.get_running_loop():
            self._follow()
        key = self._state.key(header.kid)
        if key is None:
            await self._run(self._state.fetch_key(header.kid))
            key = self._state.key_or_refuse(header.kid)
        verified = self._rules.check(token, key)
        self._state.check_revoked(header.kid, verified)
        return verified

    async def authorize(self, authorization: str | None, *scopes: str) -> Token:
        """Verify the token of an ``Authorization`` header, and that it has all of these scopes.

        Raises ``NoToken``, ``InsufficientScope``, and what ``verify`` raises.
        """
        token = await self.verify(bearer(authorization))
        token.require(*scopes)
        return token

    async def aclose(self) -> None:
        """End the task and the connections. A token that is verified later starts them again."""
        if self._loop is asyncio.get_running_loop():
            self._task.cancel()
            await self._client.aclose()
        self._loop = None

    def reset(self) -> None:
        """Forget all keys and revocations; the next token fetches them."""
        self._loop = None  # its task ends at its next turn
        self._state.reset()

    async def _run(self, flow: Flow[None]) -> None:
        async with self._lock:
            await flows.run_async(flow, self._client)

    def _follow(self) -> None:
        """Begin anew in this event loop: locks and connections belong to one."""
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._client = http.async_client(self.issuer, tls=self._tls)
        self._task = self._loop.create_task(_follow_async(weakref.ref(self), self._loop))


async def _follow_async(
    reference: "weakref.ref[AsyncVerifier]", loop: asyncio.AbstractEventLoop
) -> None:
    due_in = 0.0
    while True:
        await asyncio.sleep(due_in)
        verifier = reference()
        if verifier is None or verifier._loop is not loop:
            return
        try:
            await verifier._run(verifier._state.refresh())
        except Exception as error:  # noqa: BLE001 - whatever it is, the next turn may help
            _log.error("keys and revocations were not refreshed: %s", type(error).__name__)
        due_in = max(_SHORTEST_WAIT, verifier._state.due_in)
        del verifier  # it may end while this waits


def _after_fork() -> None:
    for verifier in list(_verifiers):
        verifier._start()  # keys are kept; threads, locks and connections are the parent's


os.register_at_fork(after_in_child=_after_fork)


def reset(issuer: str) -> None:
    """Have all verifiers of an issuer forget what they fetched (``testing``)."""
    for verifier in list(_verifiers):
        if verifier.issuer == issuer:
            verifier.reset()
