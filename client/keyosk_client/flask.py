"""Protect the views of a Flask application.

::

    from keyosk_client.flask import Keyosk

    keyosk = Keyosk("http://127.0.0.1:8080", "todo")


    @app.get("/todos")
    @keyosk.require("todo:read")
    def list_todos():
        return todos_of(keyosk.token.subject)
"""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from flask import Response, current_app, g, request

from keyosk_client.challenges import refusal
from keyosk_client.errors import KeyoskError
from keyosk_client.token import Token, check_scopes
from keyosk_client.verifier import Verifier, VerifierOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

View = TypeVar("View", bound=Callable[..., Any])


class Keyosk:
    """The tokens of one service, for views of any application and blueprint."""

    def __init__(
        self, issuer: str, audience: str | Iterable[str], **options: "Unpack[VerifierOptions]"
    ) -> None:
        """Take the arguments of ``Verifier``."""
        self.verifier = Verifier(issuer, audience, **options)

    @property
    def token(self) -> Token:
        """The verified token of this request.

        Raises ``RuntimeError`` in a view that is not protected.
        """
        token = g.get("keyosk_token")
        if token is None:
            raise RuntimeError("This view has no token: use @keyosk.require().")
        return cast(Token, token)

    def require(self, *scopes: str) -> Callable[[View], View]:
        """Let only requests into a view whose token has all of these scopes.

        Put it below ``@app.route``. Without a scope, any token for this service is enough.
        If the view calls ``keyosk.token.require()`` itself, a missing scope gets the same
        response.
        """
        check_scopes(scopes)

        def decorate(view: View) -> View:
            @wraps(view)
            def guarded(*args: Any, **kwargs: Any) -> Any:
                try:
                    self._authorize(*scopes)
                    # Also calls asynchronous views.
                    return current_app.ensure_sync(view)(*args, **kwargs)
                except KeyoskError as error:
                    return self._refuse(error)

            return cast(View, guarded)

        return decorate

    def before_request(self, *scopes: str) -> Callable[[], Response | None]:
        """Return a function for ``app.before_request``, which protects every view.

        A CORS preflight has no token and is let through: it runs no view of yours.
        """
        check_scopes(scopes)

        def check() -> Response | None:
            is_preflight = (
                request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
            )
            # SECURITY: a view of the application's own may respond to OPTIONS, too.
            if is_preflight and getattr(request.url_rule, "provide_automatic_options", False):
                return None
            try:
                self._authorize(*scopes)
            except KeyoskError as error:
                return self._refuse(error)
            return None

        return check

    def _authorize(self, *scopes: str) -> None:
        g.keyosk_token = self.verifier.authorize(request.headers.get("Authorization"), *scopes)

    def _refuse(self, error: KeyoskError) -> Response:
        response = refusal(error, realm=self.verifier.audience)
        return Response(response.body, response.status, dict(response.headers))
