"""The request that is handled now, and Flask's ``g`` for it, as the objects themselves.

``flask.request`` and ``flask.g`` are proxies, which look the object up for each attribute. On a hot
path that adds up.
"""

from collections.abc import Callable
from typing import Any, Final

from flask import Request, g, request

#: Returns the request. Raises ``RuntimeError`` where there is none.
current_request: Final[Callable[[], Request]] = request._get_current_object  # type: ignore[attr-defined]
#: Returns the object behind ``flask.g``: what is known of the request, as attributes.
current_g: Final[Callable[[], Any]] = g._get_current_object
