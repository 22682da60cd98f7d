"""Protect the operations of a FastAPI application.

::

    from keyosk_client import Token
    from keyosk_client.fastapi import Keyosk

    keyosk = Keyosk("http://127.0.0.1:8080", "todo")


    @app.get("/todos")
    def list_todos(token: Annotated[Token, Depends(keyosk.require("todo:read"))]):
        return todos_of(token.subject)

Nothing has to be registered. The scheme and the scopes of each operation are in ``/openapi.json``.
For Starlette without FastAPI see ``keyosk_client.asgi``.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Annotated

from fastapi import HTTPException, Security
from fastapi.openapi.models import OAuth2, OAuthFlowClientCredentials, OAuthFlows
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from keyosk_client.challenges import refusal
from keyosk_client.errors import KeyoskError
from keyosk_client.token import Token, check_scopes
from keyosk_client.verifier import AsyncVerifier, VerifierOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Keyosk(SecurityBase):
    """The tokens of one service.

    It is a security scheme, too: ``Security(keyosk, scopes=["todo:read"])`` is the same as
    ``Depends(keyosk.require("todo:read"))``, except for errors that the operation itself raises.
    """

    def __init__(
        self, issuer: str, audience: str | Iterable[str], **options: "Unpack[VerifierOptions]"
    ) -> None:
        """Take the arguments of ``Verifier``."""
        self.verifier = AsyncVerifier(issuer, audience, **options)
        self.scheme_name = "Keyosk"
        self._flow = OAuthFlowClientCredentials(tokenUrl=f"{issuer}/auth/token", scopes={})
        self.model = OAuth2(flows=OAuthFlows(clientCredentials=self._flow))

    def require(self, *scopes: str) -> Callable[[Token], AsyncIterator[Token]]:
        """Return a dependency that gives the token of a request, if it has all of these scopes.

        Without a scope, any token for this service is enough. If the operation calls
        ``token.require()`` itself, a missing scope is answered the same way.
        """
        check_scopes(scopes)
        # OpenAPI wants each scope that an operation names in the scheme, too.
        self._flow.scopes.update(dict.fromkeys(scopes, ""))

        async def required(
            token: Annotated[Token, Security(self, scopes=scopes)],
        ) -> AsyncIterator[Token]:
            try:
                yield token
            except KeyoskError as error:
                raise self._http_exception(error) from error

        return required

    async def __call__(self, connection: HTTPConnection, scopes: SecurityScopes) -> Token:
        """Return the token of a request: what FastAPI calls for ``Security(keyosk)``."""
        try:
            return await self.verifier.authorize(
                connection.headers.get("Authorization"), *scopes.scopes
            )
        except KeyoskError as error:
            raise self._http_exception(error) from error

    def _http_exception(self, error: KeyoskError) -> HTTPException:
        response = refusal(error, realm=self.verifier.audience)
        return HTTPException(response.status, dict(response.content), dict(response.headers))
