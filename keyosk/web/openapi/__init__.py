"""The OpenAPI 3.1 document, made from the route table, the declared operations and the schemas.

What is said of an address follows from those; only the words and examples are written for it
(``words``). ``schemas`` turns shapes into JSON Schema, ``answers`` tells what comes back. This
package is the only user of apispec.
"""

import inspect
import re
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from apispec import APISpec

from keyosk.web import bodies, operations
from keyosk.web.access import Access
from keyosk.web.openapi.answers import Answers, Call
from keyosk.web.openapi.descriptions import HEADERS, INTRODUCTION, PARAMETERS, PATH_PARAMETERS
from keyosk.web.openapi.schemas import SchemasPlugin, list_parameters
from keyosk.web.route import Route

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
        "description": "A token of `/auth/token` for the audience `keyosk`.",
    },
}


def build(routes: Iterable[Route], issuer: str) -> dict[str, Any]:
    """The document. Raises ``LookupError`` for a name that it has no words for."""
    shapes = SchemasPlugin()
    spec = APISpec(
        title="Keyosk",
        version=_version(),
        openapi_version="3.1.0",
        plugins=[shapes],
        info={"description": INTRODUCTION, "license": {"name": "MIT", "identifier": "MIT"}},
        servers=[
            {"url": issuer, "description": "The issuer that is configured."},
            {"url": ".", "description": "Where this document came from."},
        ],
    )
    for name, scheme in _SECURITY.items():
        spec.components.security_scheme(name, scheme)
    for name, parameter in PARAMETERS.items():
        spec.components.parameter(name, parameter["in"], {**parameter})
    for name, header in HEADERS.items():
        spec.components.header(name, {"schema": {"type": "string"}, **header})
    answers = Answers(spec, shapes)
    tags: dict[str, str] = {}
    for route in routes:
        tag, description = _tag(route)
        tags[tag] = description
        described = {
            method.lower(): _operation(_call(route, method), tag, shapes, answers)
            for method in sorted(route.access, key=_ORDER.index)
        }
        spec.path(path=_path(route.path), operations=described)
    for tag, description in tags.items():
        spec.tag({"name": tag, "description": description})
    return spec.to_dict()


def _call(route: Route, method: str) -> Call:
    return Call(route, method, route.access[method], operations.of(route.resource, method))


def _operation(call: Call, tag: str, shapes: SchemasPlugin, answers: Answers) -> dict[str, Any]:
    summary, details = _prose(getattr(call.route.resource, call.method.lower()))
    described: dict[str, Any] = {
        "operationId": _operation_id(call),
        "summary": summary,
        "description": "\n\n".join(filter(None, (details, _who(call.access)))),
        "tags": [tag],
        "parameters": _parameters(call),
        "responses": answers.of(call),
        "security": _security(call.access),
    }
    if call.operation.body is not None:
        described["requestBody"] = _body(call, shapes)
    if not (call.access.anyone or call.access.any_caller):
        described["x-required-scope"] = call.access.scope
    return described


def _parameters(call: Call) -> list[Any]:
    operation = call.operation
    parameters: list[Any] = [
        {"name": name, "in": "path", "required": True, **PATH_PARAMETERS[name]}
        for name in call.path_parameters
    ]
    if operation.query is not None:
        parameters.append({"in": "query", "schema": operation.query})
    if operation.lists is not None:
        parameters += [*list_parameters(operation.lists), "limit", "cursor", "total"]
    if operation.needs_force:
        parameters.append("force")
    if call.is_conditional:
        parameters += ["If-Match", "If-None-Match"]
    if call.is_repeatable:
        parameters.append("Idempotency-Key")
    return parameters


def _body(call: Call, shapes: SchemasPlugin) -> dict[str, Any]:
    assert call.operation.body is not None
    usual = bodies.PATCH_TYPES if call.method == "PATCH" else bodies.JSON_TYPES
    reference = shapes.reference(call.operation.body)
    content: dict[str, Any] = {"schema": reference}
    if call.has_lines:  # JSON Lines, for which OpenAPI has words from 3.2 on
        content = {"schema": {"type": "string"}, "x-itemSchema": reference}
    return {
        "required": not call.operation.optional,
        "content": dict.fromkeys(call.operation.body_types or usual, content),
    }


def _security(access: Access) -> list[dict[str, list[str]]]:
    """A scope stands as a role of the scheme, which OpenAPI has allowed since 3.1."""
    if access.by_login:
        return [{name: []} for name in ("basic", *(("api_key",) if access.key_alone else ()))]
    if access.anyone:
        return [{}]
    # The account that the address names needs none, so it is no requirement there.
    roles = [] if access.itself or access.any_caller else [access.scope]
    return [{"bearer": roles}, {"basic": roles}]


def _who(access: Access) -> str:
    if access.by_login:
        alone = ", or by an API key alone as Bearer" if access.key_alone else ""
        return f"Needs a login by HTTP Basic{alone}."
    if access.anyone:
        return "Anybody may ask this."
    if access.any_caller:
        return "Needs a login."
    itself = "; the account itself needs none" if access.itself else ""
    if access.proof:
        itself += (
            ", but its password in this request, an admin's own account included: Basic with it, "
            "or `current_password`"
        )
    without = " A caller that came by API key is refused." if access.no_api_key else ""
    return f"Needs the scope `{access.scope}`{itself}.{without}"


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


def _version() -> str:
    try:
        return version("keyosk")
    except PackageNotFoundError:  # run from its sources
        return "0"
