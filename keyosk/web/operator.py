"""Requests made inside this process: by the operator, and by the console."""

from typing import Any, Final

from flask import Request, request

from keyosk.model import OPERATOR, Principal

#: In the WSGI environ of a request that a command makes inside its own process, with ``OPERATOR``.
#:
#: SECURITY: servers fill the environ from what clients send, and all names and values of that are
#: text. This name is not text, and the value is recognised by its identity: only code of this
#: process can have put it there.
BY_OPERATOR: Final = object()


def is_operator(asked: Request | None = None) -> bool:
    """Return whether this request, or ``asked``, is an operator's, made inside this process."""
    environ: dict[Any, Any] = (asked or request).environ
    return environ.get(BY_OPERATOR) is OPERATOR


#: Likewise, of a request that the console makes: the ``Principal`` of its session.
BY_CONSOLE: Final = object()


def console_login(asked: Request) -> Principal | None:
    """Return the login of the console session that a request is made for, if it is one."""
    environ: dict[Any, Any] = asked.environ
    found: Principal | None = environ.get(BY_CONSOLE)
    return found
