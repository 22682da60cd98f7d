"""Protect an ASGI application, whatever it is made with.

::

    from keyosk_client.asgi import Keyosk

    keyosk = Keyosk("http://127.0.0.1:8080", "todo")
    app = keyosk.require("todo:read")(app)

For Starlette: ``Mount("/todos", todos, middleware=[Middleware(keyosk.require("todo:read"))])``.
The application finds the token in ``scope["keyosk_token"]``.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any

from keyosk_client.challenges import Refusal, refusal
from keyosk_client.errors import KeyoskError
from keyosk_client.token import check_scopes
from keyosk_client.verifier import AsyncVerifier, VerifierOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_POLICY_VIOLATION = 1008  # RFC 6455 section 7.4.1


class Keyosk:
    """The tokens of one service."""

    def __init__(
        self, issuer: str, audience: str | Iterable[str], **options: "Unpack[VerifierOptions]"
    ) -> None:
        """Take the arguments of ``Verifier``."""
        self.verifier = AsyncVerifier(issuer, audience, **options)

    def require(self, *scopes: str) -> Callable[[Application], Application]:
        """Return a middleware that lets only requests through whose token has all of these scopes.

        Without a scope, any token for this service is enough. It protects all that it is put
        around, CORS preflights and WebSockets too.
        """
        check_scopes(scopes)

        def protect(app: Application) -> Application:
            async def protected(
                scope: MutableMapping[str, Any], receive: Receive, send: Send
            ) -> None:
                if scope["type"] != "lifespan":
                    try:
                        token = await self.verifier.authorize(_authorization(scope), *scopes)
                    except KeyoskError as error:
                        await _refuse(refusal(error, realm=self.verifier.audience), scope, send)
                        return
                    scope["keyosk_token"] = token
                await app(scope, receive, send)

            return protected

        return protect


def _authorization(scope: MutableMapping[str, Any]) -> str | None:
    # SECURITY: several are joined, as in one field (RFC 9110 section 5.3), which is no token: the
    # application might look at another one than this.
    headers = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
    return b", ".join(headers).decode("latin-1") if headers else None


async def _refuse(response: Refusal, scope: MutableMapping[str, Any], send: Send) -> None:
    kind = "http.response"
    if scope["type"] == "websocket":
        kind = "websocket.http.response"
        if kind not in (scope.get("extensions") or {}):
            # Before the handshake the server makes 403 of it.
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": ""})
            return
    headers = [(name.lower().encode(), value.encode()) for name, value in response.headers.items()]
    headers.append((b"content-length", str(len(response.body)).encode()))
    await send({"type": f"{kind}.start", "status": response.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": response.body})
