"""Protect the views of Django REST framework.

::

    # settings.py
    KEYOSK = {"ISSUER": "http://127.0.0.1:8080", "AUDIENCE": "todo"}
    REST_FRAMEWORK = {
        "DEFAULT_AUTHENTICATION_CLASSES": ["keyosk_client.rest_framework.KeyoskAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    }

    # views.py
    from keyosk_client.rest_framework import require


    class Todos(APIView):
        permission_classes = [require("todo:read")]

        def get(self, request):
            return Response({"todos": todos_of(request.auth.subject)})

``request.auth`` is the token, ``request.user`` a ``Caller``.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import APIException
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from keyosk_client.challenges import refusal
from keyosk_client.django import keyosk
from keyosk_client.errors import InsufficientScope, KeyoskError, NoToken
from keyosk_client.token import Token, check_scopes


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, as far as the token tells; no user of Django's own.

    Attributes:
        pk: The id of the account at Keyosk; throttling counts by it.
        username: Its name.
    """

    pk: str
    username: str | None
    is_authenticated: ClassVar[bool] = True
    is_anonymous: ClassVar[bool] = False


class KeyoskAuthentication(BaseAuthentication):
    """Takes a Bearer token for a login."""

    def authenticate(self, request: Request) -> tuple[Caller, Token] | None:
        """Return the caller and the token; ``None`` where there is none, as others may follow."""
        try:
            token = keyosk().authorize(request._request)
        except NoToken:
            return None
        except KeyoskError as error:
            raise _exception(error) from error
        return Caller(token.subject, token.username), token

    def authenticate_header(self, request: Request) -> str:  # noqa: ARG002 - it is the same for all
        """Return the challenge for a request without a login."""
        return _exception(NoToken()).auth_header


class _HasScopes(BasePermission):
    scopes: tuple[str, ...] = ()

    def has_permission(self, request: Request, view: Any) -> bool:  # noqa: ARG002 - for all views
        """Return true, or raise: only an exception can have a challenge."""
        if not isinstance(request.auth, Token):
            raise _exception(NoToken())
        try:
            request.auth.require(*self.scopes)
        except InsufficientScope as error:
            raise _exception(error) from error
        return True


def require(*scopes: str) -> type[BasePermission]:
    """Return a permission class for tokens that have all of these scopes.

    It cannot be combined by ``|`` or ``~``, which refuse where the class alone does.
    """
    check_scopes(scopes)
    return type("HasScopes", (_HasScopes,), {"scopes": scopes})


class _Refused(APIException):
    auth_header: str
    wait: int


def _exception(error: KeyoskError) -> _Refused:
    """Return an exception that the handler of REST framework makes the right response of."""
    response = refusal(error, realm=keyosk().verifier.audience)
    exception = _Refused(dict(response.content))
    exception.status_code = response.status
    exception.auth_header = response.headers.get("WWW-Authenticate", "")
    exception.wait = int(response.headers.get("Retry-After", "0"))
    return exception
