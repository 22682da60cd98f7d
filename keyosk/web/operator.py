"""Requests made inside this process: by the operator, and by the console."""

from typing import Any, Final

from flask import Request

from keyosk.model import OPERATOR, Principal

#: The key in the WSGI environ of a request that a command makes inside its process.
#:
#: SECURITY: servers fill the environ with text that clients send. This key is not text, and its
#: value is compared by identity, so only code in this process can set it.
BY_OPERATOR: Final = object()


def is_operator(request: Request) -> bool:
    """Return whether an operator makes this request inside this process."""
    environ: dict[Any, Any] = request.environ
    return environ.get(BY_OPERATOR) is OPERATOR


#: The same for a request of the console; the value is the ``Principal`` of the session.
BY_CONSOLE: Final = object()


def console_login(request: Request) -> Principal | None:
    """Return the login of the console session that makes this request, if one does."""
    environ: dict[Any, Any] = request.environ
    principal: Principal | None = environ.get(BY_CONSOLE)
    return principal
