"""The authorization endpoint, which refuses every request."""

from typing import NoReturn

from keyosk.errors import UnsupportedResponseType
from keyosk.web.endpoint import Endpoint
from keyosk.web.operations import operation


class AuthorizeResource(Endpoint):
    """The authorization endpoint (RFC 6749 section 3.1) of a server without login pages."""

    @operation(status=400, raises=(UnsupportedResponseType,))
    def get(self) -> NoReturn:
        """Refuse the request: tokens are issued at the token endpoint."""
        # SECURITY: never a redirect, as nobody registered a redirect_uri.
        raise UnsupportedResponseType(
            "Keyosk has no login pages: get a token at /auth/token with a username and a password "
            "or an API key."
        )

    @operation(status=400, raises=(UnsupportedResponseType,))
    def post(self) -> NoReturn:
        """Refuse the request: tokens are issued at the token endpoint."""
        self.get()
