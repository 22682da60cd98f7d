"""Protect the handlers of an aiohttp server.

::

    from keyosk_client.aiohttp import Keyosk

    keyosk = Keyosk("http://127.0.0.1:8080", "todo")


    @routes.get("/todos")
    @keyosk.require("todo:read")
    async def list_todos(request):
        return web.json_response(todos_of(keyosk.token(request).subject))
"""

from collections.abc import Awaitable, Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from aiohttp import web

from keyosk_client.challenges import refusal
from keyosk_client.errors import KeyoskError
from keyosk_client.token import Token, check_scopes
from keyosk_client.verifier import AsyncVerifier, VerifierOptions

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler, Middleware
    from typing_extensions import Unpack

# What releases before 3.14 take as well is its name alone.
_TOKEN: Final[Any] = getattr(web, "RequestKey", lambda name, _: name)("keyosk_token", Token)
AnyHandler = TypeVar("AnyHandler", bound=Callable[..., Awaitable[web.StreamResponse]])


class Keyosk:
    """The tokens of one service."""

    def __init__(
        self, issuer: str, audience: str | Iterable[str], **options: "Unpack[VerifierOptions]"
    ) -> None:
        """Take the arguments of ``Verifier``."""
        self.verifier = AsyncVerifier(issuer, audience, **options)

    @staticmethod
    def token(request: web.Request) -> Token:
        """Return the verified token of a request.

        Raises ``RuntimeError`` in a handler that is not protected.
        """
        token = request.get(_TOKEN)
        if token is None:
            raise RuntimeError("This handler has no token: use @keyosk.require().")
        return cast(Token, token)

    def require(self, *scopes: str) -> Callable[[AnyHandler], AnyHandler]:
        """Let only requests into a handler whose token has all of these scopes.

        Put it below ``@routes.get``, on a function or on a method of a ``web.View``. Without a
        scope, any token for this service is enough. If the handler calls
        ``keyosk.token(request).require()`` itself, a missing scope is answered the same way.
        """
        check_scopes(scopes)

        def decorate(handler: AnyHandler) -> AnyHandler:
            @wraps(handler)
            async def guarded(given: web.Request | web.View) -> web.StreamResponse:
                request = given.request if isinstance(given, web.View) else given
                return await self._answer(request, lambda: handler(given), *scopes)

            return cast(AnyHandler, guarded)

        return decorate

    def middleware(self, *scopes: str) -> "Middleware":
        """Return a middleware for ``web.Application``, which protects every handler.

        It also protects CORS preflights: a middleware that responds to those comes first.
        """
        check_scopes(scopes)

        @web.middleware
        async def check(request: web.Request, handler: "Handler") -> web.StreamResponse:
            return await self._answer(request, lambda: handler(request), *scopes)

        return check

    async def _answer(
        self,
        request: web.Request,
        handle: Callable[[], Awaitable[web.StreamResponse]],
        *scopes: str,
    ) -> web.StreamResponse:
        try:
            authorization = request.headers.get("Authorization")
            request[_TOKEN] = await self.verifier.authorize(authorization, *scopes)
            return await handle()
        except KeyoskError as error:
            response = refusal(error, realm=self.verifier.audience)
            return web.Response(
                body=response.body, status=response.status, headers=dict(response.headers)
            )
