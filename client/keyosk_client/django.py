"""Protect the views of a Django project.

::

    # settings.py
    KEYOSK = {"ISSUER": "http://127.0.0.1:8080", "AUDIENCE": "todo"}

    # views.py
    from keyosk_client.django import require


    @require("todo:read")
    def list_todos(request):
        return JsonResponse({"todos": todos_of(request.keyosk_token.subject)})

To protect every view, add ``keyosk_client.django.KeyoskMiddleware`` to ``MIDDLEWARE``. For Django
REST framework see ``keyosk_client.rest_framework``.
"""

import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.http import HttpRequest, HttpResponse, HttpResponseBase

from keyosk_client.challenges import refusal
from keyosk_client.errors import KeyoskError
from keyosk_client.token import Token, check_scopes
from keyosk_client.verifier import Verifier, VerifierOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

View = TypeVar("View", bound=Callable[..., Any])
_PUBLIC = "keyosk_public"
_CSRF_EXEMPT = "csrf_exempt"  # where Django's own middleware looks for it


class Keyosk:
    """The tokens of one service; ``keyosk()`` gives the one of the settings."""

    def __init__(
        self, issuer: str, audience: str | Iterable[str], **options: "Unpack[VerifierOptions]"
    ) -> None:
        """Take the arguments of ``Verifier``."""
        # For asynchronous views too: under WSGI each of those has an event loop of its own.
        self.verifier = Verifier(issuer, audience, **options)

    def require(self, *scopes: str) -> Callable[[View], View]:
        """Let only requests into a view whose token has all of these scopes.

        For functions; for a class: ``@method_decorator(require("todo:read"), name="dispatch")``.
        Without a scope, any token for this service is enough. If the view calls
        ``token.require()`` itself, a missing scope is answered the same way.
        """
        return _decorator(lambda: self, *scopes)

    def authorize(self, request: HttpRequest, *scopes: str) -> Token:
        """Verify the token of a request and keep it there, as ``request.keyosk_token``.

        Raises what ``Verifier.authorize`` raises.
        """
        token = self.verifier.authorize(request.headers.get("Authorization"), *scopes)
        request.keyosk_token = token
        return token

    def refuse(self, error: KeyoskError) -> HttpResponse:
        """Return the response for an error."""
        response = refusal(error, realm=self.verifier.audience)
        return HttpResponse(response.body, status=response.status, headers=dict(response.headers))


@functools.cache
def keyosk() -> Keyosk:
    """Return the one of the setting ``KEYOSK``, whose keys are the arguments of ``Verifier``.

    Raises ``ImproperlyConfigured``.
    """
    options: Any = getattr(settings, "KEYOSK", None)
    try:
        return Keyosk(**{name.lower(): value for name, value in options.items()})
    except (AttributeError, TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"The setting KEYOSK is not valid: {error}") from error


def require(*scopes: str) -> Callable[[View], View]:
    """Do as ``Keyosk.require``, with the one of the settings."""
    return _decorator(keyosk, *scopes)


def public(view: View) -> View:
    """Have ``KeyoskMiddleware`` let everybody into this view."""
    setattr(view, _PUBLIC, True)
    return view


class KeyoskMiddleware:
    """Lets only requests with a token for this service into views, except those of ``@public``.

    It also protects CORS preflights: a middleware that responds to those comes first.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        """Raises ``ImproperlyConfigured``, when the project starts."""
        keyosk()
        self._get_response = get_response
        self.process_view: Callable[..., Any] = self._check  # Django's name
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)
            # In any thread: the one of synchronous views must not wait for the network.
            self.process_view = sync_to_async(self._check, thread_sensitive=False)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Go on; ``process_view`` knows the view."""
        return cast(HttpResponseBase, self._get_response(request))

    def _check(
        self, request: HttpRequest, view: Callable[..., Any], *_: Any
    ) -> HttpResponse | None:
        if getattr(view, _PUBLIC, False):
            return None
        try:
            keyosk().authorize(request)
        except KeyoskError as error:
            return keyosk().refuse(error)
        return None


def _decorator(find: Callable[[], Keyosk], *scopes: str) -> Callable[[View], View]:
    check_scopes(scopes)

    def decorate(view: View) -> View:
        @functools.wraps(view)
        async def guarded_async(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            try:
                authorize = sync_to_async(find().authorize, thread_sensitive=False)
                await authorize(request, *scopes)
                return await view(request, *args, **kwargs)
            except KeyoskError as error:
                return find().refuse(error)

        @functools.wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            try:
                find().authorize(request, *scopes)
                return view(request, *args, **kwargs)
            except KeyoskError as error:
                return find().refuse(error)

        chosen = guarded_async if iscoroutinefunction(view) else guarded
        # A browser sends no Bearer token by itself, so that no other site can make it.
        setattr(chosen, _CSRF_EXEMPT, True)
        return cast(View, chosen)

    return decorate


def _forget(*, setting: str, **_: Any) -> None:
    if setting == "KEYOSK":
        keyosk.cache_clear()


setting_changed.connect(_forget)  # ``override_settings`` in tests
