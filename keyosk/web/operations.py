"""Declarations of what each method of a resource takes and returns.

The resource uses them (``Endpoint.load``, ``Endpoint.page``), and /openapi.json is built from
them. A route whose methods are not declared cannot be built (``route.Route``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, TypeVar

from keyosk.errors import KeyoskError
from keyosk.web.paging import ListOptions
from keyosk.web.schemas import StrictSchema

_ATTRIBUTE: Final = "keyosk_operation"
_Method = TypeVar("_Method", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of a resource.

    Attributes:
        response: The JSON body of the response; of one item if the operation ``lists``.
        media_types: What the response may be instead of JSON: an example by media type.
        status: The status of a success, or of the refusal if the operation always refuses.
        body: The JSON body of the request; ``Endpoint`` refuses one that is not declared.
        body_types: The media types of the body, if not those of all bodies.
        optional: Whether the body may be absent.
        query: The parameters of the query; with a write, ``Endpoint`` refuses any other.
        lists: The order and filters of a list.
        has_etag: Whether the object that is returned or changed has an entity tag.
        needs_force: Whether it asks for ``force`` before it removes grants.
        raises: The errors that do not follow from the rest, the access decision and the path.
    """

    response: type[StrictSchema] | None = None
    media_types: Mapping[str, str] = field(default_factory=dict)
    status: HTTPStatus
    body: type[StrictSchema] | None = None
    body_types: tuple[str, ...] = ()
    optional: bool = False
    query: type[StrictSchema] | None = None
    lists: ListOptions | None = None
    has_etag: bool = False
    needs_force: bool = False
    raises: tuple[type[KeyoskError], ...] = ()


def operation(**declared: Any) -> Callable[[_Method], _Method]:
    """Declare a method of a resource, by the fields of ``Operation``.

    The default status is 200, or 204 without a response body.
    """
    usual = 200 if "response" in declared or "media_types" in declared else 204
    declaration = Operation(**{**declared, "status": HTTPStatus(declared.get("status", usual))})

    def attach(method: _Method) -> _Method:
        # No wrapper, so that a request pays nothing for it.
        method.__dict__[_ATTRIBUTE] = declaration
        return method

    return attach


def of(resource: type, method: str) -> Operation:
    """Return the declaration of an HTTP method. Raises ``TypeError`` if there is none."""
    function = getattr(resource, method.lower(), None)
    declaration = getattr(function, _ATTRIBUTE, None)
    if not isinstance(declaration, Operation):
        raise TypeError(
            f"{resource.__name__} does not declare the request and response of its {method}: "
            "declare it with @operation (keyosk/web/operations.py)."
        )
    return declaration
