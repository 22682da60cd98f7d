"""Protect a WSGI application, whatever it is made with.

::

    from keyosk_client.wsgi import Keyosk

    keyosk = Keyosk("http://127.0.0.1:8080", "todo")
    application = keyosk.require("todo:read")(application)

The application finds the token in ``environ["keyosk.token"]``.
"""

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from keyosk_client.challenges import refusal
from keyosk_client.errors import KeyoskError
from keyosk_client.token import check_scopes
from keyosk_client.verifier import Verifier, VerifierOptions

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication  # as Python 3.10 has no wsgiref.types
    from typing_extensions import Unpack


class Keyosk:
    """The tokens of one service."""

    def __init__(
        self, issuer: str, audience: str | Iterable[str], **options: "Unpack[VerifierOptions]"
    ) -> None:
        """Take the arguments of ``Verifier``."""
        self.verifier = Verifier(issuer, audience, **options)

    def require(self, *scopes: str) -> "Callable[[WSGIApplication], WSGIApplication]":
        """Return a middleware that lets only requests through whose token has all of these scopes.

        Without a scope, any token for this service is enough. It protects all that it is put
        around, CORS preflights too.
        """
        check_scopes(scopes)

        def protect(app: "WSGIApplication") -> "WSGIApplication":
            def protected(
                environ: dict[str, Any], start_response: "StartResponse"
            ) -> Iterable[bytes]:
                try:
                    token = self.verifier.authorize(environ.get("HTTP_AUTHORIZATION"), *scopes)
                except KeyoskError as error:
                    response = refusal(error, realm=self.verifier.audience)
                    status = f"{response.status} {HTTPStatus(response.status).phrase}"
                    length = ("Content-Length", str(len(response.body)))
                    start_response(status, [*response.headers.items(), length])
                    return [response.body]
                environ["keyosk.token"] = token
                return app(environ, start_response)

            return protected

        return protect
