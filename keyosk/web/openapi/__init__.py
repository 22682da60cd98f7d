"""The OpenAPI 3.1 document, made from the route table, the declared operations and the schemas.

Nothing is described here: a description and an example stand beside the field, parameter or header
that they are about. ``schemas`` turns shapes into JSON Schema, ``responses`` lists what comes back.
This package is the only user of apispec.
"""

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final

from apispec import APISpec

from keyosk.web import bodies, endpoint, errors, operations, paging, preconditions, route
from keyosk.web.access import Access
from keyosk.web.openapi.responses import REQUEST_ID_HEADER, Call, Responses
from keyosk.web.openapi.schemas import SchemasPlugin
from keyosk.web.responses import HEADERS as RESPONSE_HEADERS
from keyosk.web.responses import PARAMETERS as RESPONSE_PARAMETERS
from keyosk.web.route import Route

_INTRODUCTION: Final = """\
One login for a set of microservices. A caller shows a username and a password, or an API key, and
gets a signed token, which every service verifies offline.

Every path that supports GET supports HEAD. OPTIONS returns 204 with `Allow`. `{account}` may be
`me`, the caller's own account. `keyosk:admin` includes every `keyosk:` scope. A request with an
unknown field is refused; a response may get new fields, which clients must ignore. Times are RFC
3339 in UTC."""
#: Those that operations refer to by name.
_PARAMETERS: Final = {
    **paging.PARAMETERS,
    **RESPONSE_PARAMETERS,
    **preconditions.PARAMETERS,
    **endpoint.PARAMETERS,
}
_HEADERS: Final = {
    **paging.HEADERS,
    **RESPONSE_HEADERS,
    **endpoint.HEADERS,
    **errors.HEADERS,
    **REQUEST_ID_HEADER,
}
#: The tags as an installation is set up, used and watched. What is not here comes last.
_TAGS: Final = (
    *("services", "roles", "accounts", "api-keys", "workloads", "bulk", "apply", "scope-uses"),
    *("token", "sessions", "console-sessions", "second-factors"),
    *("jwks", "revocations", "introspection", "forward"),
    *("explain", "audit", "login-failures", "signing-keys", "activity", "diagnosis"),
    *("health", "metadata", "landing", "documentation", "authorize"),
)
_ORDER: Final = ("GET", "PUT", "POST", "PATCH", "DELETE")
_SECURITY: Final = {
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "A username with a password or an API key.",
    },
    "api_key": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "kysk_...",
        "description": "An API key alone.",
    },
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A token from `/auth/token` for the audience `keyosk`.",
    },
}


def build(routes: Iterable[Route], issuer: str, version: str | None = None) -> dict[str, Any]:
    """Build the document. Raises ``LookupError`` for a field or parameter without description.

    ``version``: ``None`` where not everybody may know it.
    """
    shapes = SchemasPlugin()
    spec = APISpec(
        title="Keyosk",
        version=version or "hidden",
        openapi_version="3.1.0",
        plugins=[shapes],
        info={"description": _INTRODUCTION, "license": {"name": "MIT", "identifier": "MIT"}},
        servers=[
            # First, because /docs may be read under another name than the issuer's, and its policy
            # lets it send requests to its own origin only.
            {"url": ".", "description": "The server of this document."},
            {"url": issuer, "description": "The configured issuer."},
        ],
    )
    for name, scheme in _SECURITY.items():
        spec.components.security_scheme(name, scheme)
    for name, parameter in _PARAMETERS.items():
        spec.components.parameter(name, parameter["in"], {**parameter})
    for name, header in _HEADERS.items():
        spec.components.header(name, {"schema": {"type": "string"}, **header})
    responses = Responses(spec, shapes)
    tags: dict[str, str] = {}
    for each in routes:
        tag, description = _tag(each)
        tags[tag] = description
        described = {
            method.lower(): _operation(_call(each, method), tag, shapes, responses=responses)
            for method in sorted(each.access, key=_ORDER.index)
        }
        spec.path(path=_path(each.path), operations=described)
    for tag in sorted(tags, key=lambda tag: _TAGS.index(tag) if tag in _TAGS else len(_TAGS)):
        spec.tag({"name": tag, "description": tags[tag]})
    return spec.to_dict()


def calls(routes: Iterable[Route]) -> Iterator[Call]:
    """Return each method of each route, with its declaration."""
    for each in routes:
        for method in each.access:
            yield _call(each, method)


def _call(route: Route, method: str) -> Call:
    return Call(route, method, route.access[method], operations.of(route.resource, method))


def _operation(
    call: Call, tag: str, shapes: SchemasPlugin, *, responses: Responses
) -> dict[str, Any]:
    summary, details = _prose(getattr(call.route.resource, call.method.lower()))
    described: dict[str, Any] = {
        "operationId": _operation_id(call),
        "summary": summary,
        "description": "\n\n".join(filter(None, (details, _who(call.access)))),
        "tags": [tag],
        "parameters": _parameters(call, shapes),
        "responses": responses.of(call),
        "security": _security(call.access),
    }
    if call.operation.body is not None:
        described["requestBody"] = _body(call, shapes)
    if not (call.access.anyone or call.access.any_caller):
        described["x-required-scope"] = call.access.scope
    return described


def _parameters(call: Call, shapes: SchemasPlugin) -> list[Any]:
    operation = call.operation
    parameters: list[Any] = [
        {"name": name, "in": "path", "required": True, **route.PARAMETERS[name]}
        for name in call.path_parameters
    ]
    if operation.query is not None:
        parameters += shapes.parameters(operation.query().fields)
    if operation.lists is not None:
        parameters += [_sort(operation.lists), *shapes.parameters(operation.lists.filters)]
        parameters += ["limit", "cursor", "total"]
    if operation.needs_force:
        parameters.append("force")
    if call.is_conditional:
        parameters += ["If-Match", "If-None-Match"]
    if call.is_repeatable:
        parameters.append("Idempotency-Key")
    return parameters


def _sort(lists: paging.ListOptions) -> dict[str, Any]:
    orders = [order for sort in lists.sorts for order in (sort, f"-{sort}")]
    return {
        "name": "sort",
        "in": "query",
        "description": "The order of the list; a minus sign reverses it.",
        "schema": {"type": "string", "enum": orders, "default": lists.sorts[0]},
    }


def _body(call: Call, shapes: SchemasPlugin) -> dict[str, Any]:
    assert call.operation.body is not None
    usual = bodies.PATCH_TYPES if call.method == "PATCH" else bodies.JSON_TYPES
    reference = shapes.reference(call.operation.body)
    content: dict[str, Any] = {"schema": reference}
    if call.has_lines:  # JSON Lines, which OpenAPI can describe from 3.2 on
        content = {"schema": {"type": "string"}, "x-itemSchema": reference}
    return {
        "required": not call.operation.optional,
        "content": dict.fromkeys(call.operation.body_types or usual, content),
    }


def _security(access: Access) -> list[dict[str, list[str]]]:
    """The accepted logins. A scope stands as a role of the scheme, as OpenAPI allows since 3.1."""
    if access.by_login:
        return [{name: []} for name in ("basic", *(("api_key",) if access.key_alone else ()))]
    if access.anyone:
        return [{}]
    # The account that the path names needs no scope, so none is required there.
    roles = [] if access.itself or access.any_caller else [access.scope]
    return [{"bearer": roles}, {"basic": roles}]


def _who(access: Access) -> str:
    if access.by_login:
        alone = ", or an API key alone as a Bearer token" if access.key_alone else ""
        return f"Requires a login by HTTP Basic{alone}."
    if access.anyone:
        return "Requires no login."
    if access.any_caller:
        return "Requires a login."
    sentences = [f"Requires the scope `{access.scope}`."]
    if access.itself:
        sentences.append("An account needs no scope for itself.")
    if access.proof:
        sentences.append(
            "For the caller's own account, the request must prove its password: by HTTP Basic, or "
            "by `current_password` in the body. This applies to admins as well."
        )
    if access.no_api_key:
        sentences.append("A caller that logged in by API key is refused.")
    return " ".join(sentences)


def _prose(function: Any) -> tuple[str, str]:
    """Summary and details from a docstring, its literals as Markdown has them."""
    text = inspect.getdoc(function) or ""
    summary, _, details = text.replace("``", "`").partition("\n\n")
    return " ".join(summary.split()).rstrip("."), details


def _tag(route: Route) -> tuple[str, str]:
    """A resource family is a module of ``web``: its name, and what its docstring says."""
    module = route.resource.__module__
    summary, _ = _prose(sys.modules[module])
    return module.rpartition(".")[2].replace("_", "-"), f"{summary}."


def _path(rule: str) -> str:
    return rule.replace("<", "{").replace(">", "}")


def _operation_id(call: Call) -> str:
    """By method and address, which are the contract: no renaming of ours changes it."""
    return "_".join([call.method.lower(), *re.findall("[a-z0-9]+", call.route.path)])
