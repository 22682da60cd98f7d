"""/openapi.json says what the API is: all of it, nothing else, and every response keeps to it."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args
from urllib.parse import urljoin

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

import keyosk
from keyosk import model
from keyosk.model import COMMON_ALGORITHMS, OWN_SET_ALGORITHMS, AuditAction, KeyState
from keyosk.permissions.entitlements import Reason
from keyosk.web import (
    fields,
    openapi,
    operations,
    schemas,
    service_schemas,
    standard_schemas,
    token,
)
from keyosk.web.access import ANYONE, Access
from keyosk.web.documentation import PageResource
from keyosk.web.endpoint import Endpoint
from keyosk.web.errors import OAUTH_CODES, OAUTH_STATUS_CODES, STATUS
from keyosk.web.openapi.schemas import _KINDS
from keyosk.web.operations import operation
from keyosk.web.paging import ListOptions
from keyosk.web.route import Route
from keyosk.web.routes import ROUTES
from keyosk.workloads.presets import PRESETS
from live import Client, LiveServer, unique
from pages import enrol, logged_in
from tables import table

FORMATS: Final = Draft202012Validator.FORMAT_CHECKER
PASSWORD: Final = "violet lamps orbit slowly"
ISSUER: Final = "https://keyosk.example.com"


def address(rule: str) -> str:
    return rule.replace("<", "{").replace(">", "}")


def described_operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            yield method.upper(), path, described


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi.build(ROUTES, ISSUER)


# --- The document ---------------------------------------------------------------------------------


def test_it_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    OpenAPIV31SpecValidator(document).validate()


def test_it_is_the_same_in_every_process_of_an_installation(document: dict[str, Any]) -> None:
    assert json.dumps(openapi.build(ROUTES, ISSUER)) == json.dumps(document)


def test_it_has_every_method_of_every_route_and_no_other(document: dict[str, Any]) -> None:
    served = {(method, address(route.path)) for route in ROUTES for method in route.access}
    assert {(method, path) for method, path, _ in described_operations(document)} == served


def test_its_operations_have_names_by_method_and_address(document: dict[str, Any]) -> None:
    names = [described["operationId"] for _, _, described in described_operations(document)]
    assert len(set(names)) == len(names)
    assert {"get_accounts", "post_accounts_account_api_keys_key_rotate"} <= set(names)
    for method, path, described in described_operations(document):
        words = re.findall("[a-z0-9]+", path)
        assert described["operationId"] == "_".join([method.lower(), *words])


def test_its_operations_tell_who_may_use_them(document: dict[str, Any]) -> None:
    decided = {
        (method, address(route.path)): access
        for route in ROUTES
        for method, access in route.access.items()
    }
    for method, path, described in described_operations(document):
        access = decided[method, path]
        required = described.get("x-required-scope")
        without = access.anyone or access.any_caller
        assert required == (None if without else access.scope)
        assert (required is None) or f"`{required}`" in described["description"]
        schemes = {name for choice in described["security"] for name in choice}
        if access.by_login:
            alone: list[dict[str, list[str]]] = [{"api_key": []}] if access.key_alone else []
            assert described["security"] == [{"basic": []}, *alone]
        else:
            assert schemes == (set() if access.anyone else {"basic", "bearer"})
        assert ("logged in by API key is refused" in described["description"]) == access.no_api_key


def test_its_words_come_from_the_docstrings_without_their_markup(document: dict[str, Any]) -> None:
    for method, path, described in described_operations(document):
        assert described["summary"], f"{method} {path}"
        assert "``" not in json.dumps(described)
    tags = {tag["name"] for tag in document["tags"]}
    assert {tag for _, _, each in described_operations(document) for tag in each["tags"]} == tags


def test_a_list_is_described_with_its_orders_filters_and_pages(document: dict[str, Any]) -> None:
    for route in ROUTES:
        lists = operations.of(route.resource, "GET").lists if "GET" in route.access else None
        if lists is None:
            continue
        described = document["paths"][address(route.path)]["get"]
        parameters = [each for each in described["parameters"] if each.get("in") == "query"]
        assert {each["name"] for each in parameters} == {"sort", *lists.filters}
        shared = {"limit", "cursor", "total"}
        assert {f"#/components/parameters/{name}" for name in shared} <= {
            each.get("$ref") for each in described["parameters"]
        }
        (sort,) = (each["schema"] for each in parameters if each["name"] == "sort")
        assert sort["default"] == lists.sorts[0]
        assert sort["enum"] == [f"{sign}{name}" for name in lists.sorts for sign in ("", "-")]
        assert {"Link", "X-Total-Count"} <= described["responses"]["200"]["headers"].keys()


def test_all_filters_of_a_list_at_their_longest_fit_a_line(document: dict[str, Any]) -> None:
    for method, path, described in described_operations(document):
        shared = document["components"]["parameters"]
        named = described.get("parameters", ())
        each = [shared[one["$ref"].split("/")[-1]] if "$ref" in one else one for one in named]
        query = [one for one in each if one["in"] == "query"]
        line = len(f"{method} {path}? HTTP/1.1\r\n") + sum(
            len(f"{one['name']}=&") + one["schema"].get("maxLength", 40) for one in query
        )
        assert line < 8190, (method, path, line)


def test_merge_patches_have_their_type_and_a_token_may_be_a_form(document: dict[str, Any]) -> None:
    for method, path, described in described_operations(document):
        types = list(described.get("requestBody", {}).get("content", {}))
        if method == "PATCH":
            assert types == ["application/merge-patch+json", "application/json"]
        elif path == "/auth/token" and method == "POST":
            assert types == ["application/x-www-form-urlencoded", "application/json"]
            assert not described["requestBody"]["required"]


def test_every_field_of_ours_has_a_json_schema() -> None:
    ours = {
        kind
        for kind in vars(fields).values()
        if isinstance(kind, type) and kind.__module__ == fields.__name__
    }
    assert ours <= _KINDS.keys()


KINDS = ["password", "api_key", "workload"]


@table(
    ("shape", "name", "expected"),
    [
        (schemas.AccountSchema, "created_at", {"type": "string", "format": "date-time"}),
        (schemas.AccountSchema, "kind", {"type": "string", "enum": ["person", "machine"]}),
        (schemas.AccountSchema, "enabled", {"type": "boolean"}),
        (schemas.AccountNew, "claims", {"type": "object"}),
        (schemas.AccountPatch, "expires_at", {"type": ["string", "null"], "format": "date-time"}),
        (service_schemas.ServicePatch, "token_lifetime", {"type": ["integer", "null"]}),
        (
            service_schemas.ServiceSchema,
            "accepts",
            {
                "anyOf": [
                    {"type": "string", "enum": [*KINDS, "both", "any"]},
                    {
                        "type": "array",
                        "items": {"type": "string", "enum": KINDS},
                        "minItems": 1,
                    },
                ]
            },
        ),
        (schemas.GrantSchema, "with", {"enum": [*KINDS, None]}),
        (standard_schemas.TokenRequestSchema, "lifetime", {"type": "integer", "minimum": 1}),
    ],
)
def test_fields_become_json_schema(
    document: dict[str, Any], shape: type[Any], name: str, expected: dict[str, Any]
) -> None:
    schema = document["components"]["schemas"][openapi.schemas.name_of(shape)]
    properties = schema.get("properties") or schema["anyOf"][1]["properties"]
    assert expected.items() <= properties[name].items()


def test_a_request_may_list_the_logins_that_a_service_accepts(document: dict[str, Any]) -> None:
    for value, name, fits in [
        ("both", "ServicePatch", True),
        (["password", "api_key"], "ServicePatch", True),
        ("any", "ServicePatch", True),
        (["api_key", "workload"], "ServicePatch", True),
        (None, "ServicePatch", True),
        ([], "ServicePatch", False),
        ("neither", "ServicePatch", False),
    ]:
        assert (not faults(document, reference(name), {"accepts": value})) == fits, value


# --- Its examples ---------------------------------------------------------------------------------


def test_every_schema_has_an_example_that_fits_it(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        assert schema["examples"], name
        for example in schema["examples"]:
            assert faults(document, reference(name), example) == [], name


def test_every_example_of_an_answer_or_parameter_fits_it(document: dict[str, Any]) -> None:
    number = 0
    for schema, example in examples_beside_schemas(document):
        assert faults(document, schema, example) == []
        number += 1
    assert number > 20


def examples_beside_schemas(node: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    if isinstance(node, dict):
        if "example" in node and "schema" in node:
            yield node["schema"], node["example"]
        if "name" in node and "schema" in node:
            for example in node["schema"].get("examples", ()):
                yield node["schema"], example
        for inner in node.values():
            yield from examples_beside_schemas(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from examples_beside_schemas(inner)


def test_no_example_is_sent_unless_somebody_types_it(document: dict[str, Any]) -> None:
    """Swagger UI prefills these members, and a path cannot do without its parameters."""
    parameters = list(document["components"]["parameters"].values())
    for _, _, described in described_operations(document):
        parameters += [each for each in described["parameters"] if "$ref" not in each]
    optional = [each for each in parameters if each["in"] != "path"]
    assert {"If-Match", "If-None-Match", "Idempotency-Key", "actor"} <= {
        each["name"] for each in optional
    }
    for each in optional:
        assert not {"example", "examples"} & each.keys(), each["name"]
        assert "example" not in each["schema"], each["name"]


def test_its_tags_stand_in_the_order_of_tasks(document: dict[str, Any]) -> None:
    names = [tag["name"] for tag in document["tags"]]
    assert names == [*openapi._TAGS]
    assert names[:3] == ["services", "roles", "accounts"]
    assert names.index("accounts") < names.index("token") < names.index("audit")


# --- Its enumerations -----------------------------------------------------------------------------

SOURCES: Final = [
    path.read_text(encoding="utf-8")
    for path in sorted(Path(keyosk.__file__).parent.rglob("*.py"))
    if "migrations" not in path.parts
]


def quoted(text: str) -> list[str]:
    """What a description has between backticks."""
    return re.findall("`([^`]+)`", text)


def field_of(document: Mapping[str, Any], shape: str, name: str) -> dict[str, Any]:
    schema = document["components"]["schemas"][shape]
    properties = schema["anyOf"][1]["properties"] if "anyOf" in schema else schema["properties"]
    field: dict[str, Any] = properties[name]
    return field


def test_every_action_of_the_audit_log_is_described_and_no_other(document: dict[str, Any]) -> None:
    described = quoted(field_of(document, "Audit", "action")["description"])
    # mypy holds what is written against the type; here the type is held against what is written.
    assert described == [*get_args(AuditAction)]
    for action in described:
        assert sum(f'"{action}"' in source for source in SOURCES) > 1, f"{action} never happens"
    parameters = document["paths"]["/audit"]["get"]["parameters"]
    (action,) = (each["schema"] for each in parameters if each.get("name") == "action")
    assert {*action["examples"]} <= {*described}


def test_every_scope_that_is_required_exists_and_all_are(document: dict[str, Any]) -> None:
    required = {
        described["x-required-scope"]
        for _, _, described in described_operations(document)
        if "x-required-scope" in described
    }
    # One stands for all, one is for introspecting the tokens of others.
    assert required | {model.ADMIN, model.INTROSPECT} == set(model.KEYOSK_SCOPES)


def test_every_code_of_a_problem_is_described_and_no_other(document: dict[str, Any]) -> None:
    raised = {kind.code for kind in STATUS}
    others = {"bad_request", "not_found", "method_not_allowed", "body_too_large"}
    others |= {"request_line_too_long", "unsupported_media_type", "internal_error"}
    assert {*quoted(field_of(document, "Problem", "code")["description"])} == raised | others
    by_status = {
        code
        for name, response in document["components"]["responses"].items()
        for code in re.findall("^- `([a-z_]+)`:", response["description"], re.MULTILINE)
        if name.startswith("Problem")
    }
    # Neither an unknown method nor an OAuth error is answered by an operation with a problem.
    assert by_status == (raised | others) - {"method_not_allowed"}


def test_every_code_of_a_token_error_is_described_and_no_other(document: dict[str, Any]) -> None:
    known = {*OAUTH_CODES.values(), *OAUTH_STATUS_CODES.values(), "invalid_request"}
    assert {*field_of(document, "OAuthError", "error")["enum"]} == known
    by_status = {
        code
        for _, path, described in described_operations(document)
        for response in described["responses"].values()
        if path.startswith("/auth/") and "description" in response
        for code in re.findall("^- `([a-z_]+)`:", response["description"], re.MULTILINE)
    }
    assert by_status == known


@table(
    ("shape", "name", "values"),
    [
        ("Jwk", "alg", COMMON_ALGORITHMS),
        ("Service", "signing_algorithm", COMMON_ALGORITHMS),
        ("ServiceNew", "signing_algorithm", COMMON_ALGORITHMS),
        ("ServicePatch", "signing_algorithm", COMMON_ALGORITHMS),
        ("SigningKey", "algorithm", COMMON_ALGORITHMS),
        ("RotationRequest", "algorithm", COMMON_ALGORITHMS),
        ("KeyImport", "algorithm", COMMON_ALGORITHMS),
        ("Service", "typ", model.TOKEN_TYPES),
        ("ServicePatch", "typ", model.TOKEN_TYPES),
        ("Grant", "with", model.CredentialKind),
        ("Session", "credential", model.USUAL_CREDENTIALS),
        ("ExplainRequest", "credential", model.CredentialKind),
        ("IssuerNew", "preset", PRESETS),
        ("AccountNew", "kind", model.Kind),
        ("SigningKey", "state", model.KeyState),
        ("TokenRequest", "grant_type", token._GRANT_TYPES),
        ("TokenRequest", "format", ("json", "token", "header")),
    ],
)
def test_the_values_of_a_field_are_those_of_the_code(
    document: dict[str, Any], shape: str, name: str, values: Iterable[str]
) -> None:
    known = {*values}
    if values is COMMON_ALGORITHMS:
        known |= {*OWN_SET_ALGORITHMS}
    assert {*field_of(document, shape, name)["enum"]} - {None} == known


def test_every_reason_of_a_missing_scope_is_described(document: dict[str, Any]) -> None:
    assert quoted(field_of(document, "MissingScope", "reason")["description"]) == [*Reason]


def test_every_state_of_a_signing_key_is_described(document: dict[str, Any]) -> None:
    assert {*quoted(field_of(document, "SigningKey", "state")["description"])} == {*KeyState}


@table(
    "route",
    [
        each
        for each in ROUTES
        if "GET" in each.access and operations.of(each.resource, "GET").lists is not None
    ],
    ids=lambda route: route.path,
)
def test_every_order_that_is_described_is_one(
    admin: Client, document: dict[str, Any], route: Route
) -> None:
    described = document["paths"][address(route.path)]["get"]["parameters"]
    (sort,) = (each for each in described if each.get("name") == "sort")
    if "<issuer>" in route.path:
        admin.post("/issuers", json={"name": "orders", "issuer": "https://orders.example.com"})
    path = route.path.replace("<account>", "admin").replace("<issuer>", "orders")
    for order in sort["schema"]["enum"]:
        assert admin.get(path, params={"sort": order}).status_code == 200, order
    assert admin.get(path, params={"sort": "colour"}).status_code == 422


# --- What has no declaration does not exist -------------------------------------------------------


class Undeclared(Endpoint):
    def get(self) -> None:
        """Nothing is said of it."""


class Unknown(Endpoint):
    @operation(response=type("Colour", (schemas.ResponseSchema,), {"colour": fields.Text()}))
    def get(self) -> None:
        """The field of its response has no description."""


class UnknownFilter(Endpoint):
    @operation(response=schemas.RoleSchema, lists=ListOptions(("name",), {"colour": fields.Text()}))
    def get(self) -> None:
        """Its filter has no description."""


class UnknownParameter(Endpoint):
    @operation()
    def get(self, colour: str) -> None:
        """Its parameter has no description."""


def test_a_route_that_does_not_say_what_it_takes_and_gives_cannot_be_built() -> None:
    with pytest.raises(
        TypeError, match="Undeclared does not declare the request and response of its GET"
    ):
        Route("/new", Undeclared, {"GET": ANYONE})


@table("access", [{}, {"GET": ANYONE, "POST": ANYONE}])
def test_a_route_with_other_methods_than_decided_is_not_built(access: dict[str, Access]) -> None:
    with pytest.raises(TypeError, match="decided and existing methods differ"):
        Route("/docs", PageResource, access)


@table(
    ("path", "resource"),
    [
        ("/new", Unknown),
        ("/new", UnknownFilter),
        ("/new/<colour>", UnknownParameter),
    ],
)
def test_what_has_no_description_cannot_be_described(path: str, resource: type[Endpoint]) -> None:
    with pytest.raises(LookupError):
        openapi.build([Route(path, resource, {"GET": ANYONE})], ISSUER)


# --- Answers held against it ----------------------------------------------------------------------


def reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def faults(document: Mapping[str, Any], schema: Mapping[str, Any], value: Any) -> list[str]:
    """What is wrong with a value; a member that the schema does not have is, too."""
    whole = {**schema, "components": strict(document["components"])}
    validator = Draft202012Validator(whole, format_checker=FORMATS)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def strict(node: Any) -> Any:
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    inner = {name: strict(item) for name, item in node.items()}
    if inner.get("type") == "object" and "properties" in inner:
        inner.setdefault("additionalProperties", False)
    return inner


def test_times_are_really_checked(document: dict[str, Any]) -> None:
    role = {**schemas.example_of(schemas.RoleSchema), "created_at": "yesterday"}
    assert faults(document, reference("Role"), role) == [
        "$.created_at: 'yesterday' is not a 'date-time'"
    ]


class Walk:
    """Requests as one caller, each response to which must be one that the document has."""

    def __init__(self, document: Mapping[str, Any], seen: set[tuple[str, str, int]]) -> None:
        self.document = document
        self.seen = seen
        self.paths = {
            path: re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)))
            for path in document["paths"]
        }

    def as_caller(self, client: Client) -> Callable[..., requests.Response]:
        def ask(status: int, method: str, path: str, **options: Any) -> requests.Response:
            response = client.request(method, path, **options)
            assert response.status_code == status, f"{method} {path}: {response.text}"
            self.check(method, path.removeprefix(client.url), response)
            return response

        return ask

    def path_of(self, path: str) -> str | None:
        fitting = [name for name, rule in self.paths.items() if rule.fullmatch(path)]
        # As the router does: what is named exactly comes before what is a parameter.
        return min(fitting, key=lambda name: name.count("{"), default=None)

    def check(self, method: str, path: str, response: requests.Response) -> None:
        described_path = self.path_of(path.partition("?")[0])
        described = self.document["paths"].get(described_path, {}).get(method.lower())
        assert "X-Request-Id" in response.headers
        if described is None:  # there is no such address, or not this method
            assert response.status_code in (404, 405)
            assert ("Allow" in response.headers) == (response.status_code == 405)
            self.check_body(
                response, {"application/problem+json": {"schema": reference("Problem")}}
            )
            return
        assert described_path is not None
        where = f"{method} {described_path} {response.status_code}"
        declared = described["responses"].get(str(response.status_code))
        assert declared is not None, f"{where} is not declared"
        if "$ref" in declared:
            declared = self.document["components"]["responses"][declared["$ref"].split("/")[-1]]
        self.check_headers(response, declared["headers"], where)
        self.check_body(response, declared.get("content", {}))
        self.seen.add((method, described_path, response.status_code))

    def check_headers(
        self, response: requests.Response, declared: Mapping[str, Any], where: str
    ) -> None:
        known = {"ETag", "Location", "Retry-After", "WWW-Authenticate", "Link", "X-Total-Count"}
        for name in known | {"Idempotency-Replayed"}:
            assert name not in response.headers or name in declared, f"{where}: {name}"
        always = {"ETag", "Location", "Retry-After"}
        if response.status_code == 401:
            always.add("WWW-Authenticate")
        for name in always & declared.keys():
            assert name in response.headers, f"{where}: {name}"

    def check_body(self, response: requests.Response, content: Mapping[str, Any]) -> None:
        if not content:
            assert response.content == b""
            return
        media_type = response.headers["Content-Type"].partition(";")[0]
        assert media_type in content, media_type
        value = response.json() if media_type.endswith("json") else response.text
        assert faults(self.document, content[media_type]["schema"], value) == []


@table(
    ("status", "content_type", "body", "expected"),
    [
        (299, "application/json", {"status": "ok"}, "is not declared"),
        (200, "text/plain", {"status": "ok"}, "text/plain"),
        (200, "application/json", {"status": "ok", "colour": "red"}, "colour"),
        (200, "application/json", {}, "required"),
    ],
)
def test_an_answer_that_is_not_declared_is_caught(
    document: dict[str, Any], status: int, content_type: str, body: Any, expected: str
) -> None:
    response = requests.Response()
    response.status_code = status
    response.headers.update({"Content-Type": content_type, "X-Request-Id": "1"})
    response._content = json.dumps(body).encode()
    with pytest.raises(AssertionError, match=expected):
        Walk(document, set()).check("GET", "/health/live", response)


@pytest.mark.every_database
def test_every_operation_answers_as_the_document_says(server: LiveServer, admin: Client) -> None:
    document = admin.get("/openapi.json").json()
    seen: set[tuple[str, str, int]] = set()
    walk = Walk(document, seen)
    ask = walk.as_caller(admin)
    anybody = walk.as_caller(server.client())

    walk_public_addresses(anybody)
    service, role = walk_services_and_roles(ask)
    username = walk_accounts(ask, service, role)
    walk_manifests(ask, walk.as_caller(server.client(username, PASSWORD)), service, username)
    alice = server.client(username, PASSWORD)
    walk_workloads(ask)
    walk_tokens(walk.as_caller(alice), anybody, service)
    walk_api_keys(walk, server, username, service)
    enrol(logged_in(server, username), PASSWORD)
    walk_second_factors(ask, username)
    logged_in(server, username)
    walk_console_sessions(ask, username)
    walk_lists(ask)
    walk_state(ask)
    walk_signing_keys(ask, anybody, service)
    walk_errors(ask, anybody, walk.as_caller(alice), username)
    walk_deletions(ask, service, role, username)

    succeeded = {(method, path) for method, path, status in seen if status < 300}
    # It is there to refuse.
    succeeded |= {each[:2] for each in seen if each[1:] == ("/auth/authorize", 400)}
    assert succeeded == {(method, path) for method, path, _ in described_operations(document)}
    refusals = {200, 201, 204, 304, 400, 401, 403, 404, 409, 412, 413, 415, 422}
    assert {status for _, _, status in seen} == refusals


Ask = Callable[..., requests.Response]


def walk_public_addresses(anybody: Ask) -> None:
    for path in ("/health/live", "/health/ready"):
        anybody(200, "GET", path)
    for path in (
        "/auth/jwks",
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
        "/.well-known/jwks.json",
        "/auth/revocations",
        "/openapi.json",
        "/",
        "/docs",
        "/docs/start.js",
    ):
        tag = anybody(200, "GET", path).headers["ETag"]
        anybody(304, "GET", path, headers={"If-None-Match": tag})
    for method in ("GET", "POST"):
        anybody(400, method, "/auth/authorize")
    anybody(200, "GET", "/auth/jwks?format=pem")
    anybody(422, "GET", "/auth/jwks?format=xml")
    kid = anybody(200, "GET", "/auth/jwks").json()["keys"][0]["kid"]
    anybody(200, "GET", f"/auth/keys/{kid}.pem")
    anybody(404, "GET", "/auth/keys/nobody.pem")
    anybody(404, "GET", "/docs/nothing.js")


def walk_services_and_roles(ask: Ask) -> tuple[str, str]:
    service, role = unique("todo"), unique("editor")
    read, write = f"{service}:read", f"{service}:write"
    new = {"name": service, "scopes": [read, {"name": write, "description": "Change it."}]}
    created = ask(201, "POST", "/services", json=new)
    ask(409, "POST", "/services", json=new)
    one = f"/services/{service}"
    assert ask(200, "GET", created.headers["Location"]).json() == created.json()
    tag = {"If-Match": created.headers["ETag"]}
    ask(304, "GET", one, headers={"If-None-Match": created.headers["ETag"]})
    patch = {"accepts": ["password", "api_key"], "token_lifetime": 600, "claims": ["team"]}
    patch["refresh_allowed"] = True
    ask(200, "PATCH", one, json=patch, headers=tag)
    ask(412, "PATCH", one, json=patch, headers=tag)
    ask(200, "GET", f"{one}/scopes")
    ask(200, "PUT", f"{one}/scopes", json={"scopes": [read, write]})
    ask(404, "GET", f"{one}/verification")
    verification = {
        "url": "http://127.0.0.1:1/todos",
        "passed": True,
        "verdict": "Passed.",
        "failed": [],
    }
    ask(200, "PUT", f"{one}/verification", json=verification)
    ask(200, "GET", f"{one}/verification")
    ask(422, "PUT", f"{one}/verification", json={**verification, "url": "http://a:b@127.0.0.1/"})

    key = {"Idempotency-Key": unique("key")}
    new_role = {"name": role, "scopes": [read]}
    ask(201, "POST", "/roles", json=new_role, headers=key)
    again = ask(201, "POST", "/roles", json=new_role, headers=key)
    assert again.headers["Idempotency-Replayed"] == "true"
    ask(422, "POST", "/roles", json={"name": unique("other")}, headers=key)
    ask(409, "POST", "/roles", json=new_role)
    ask(201, "POST", "/roles", json={"name": unique("reader")})
    ask(200, "GET", f"/roles/{role}")
    ask(
        200,
        "PATCH",
        f"/roles/{role}",
        data=json.dumps({"description": "Who edits."}),
        headers={"Content-Type": "application/merge-patch+json"},
    )
    return service, role


def walk_accounts(ask: Ask, service: str, role: str) -> str:
    username = unique("alice")
    read, write = f"{service}:read", f"{service}:write"
    new = {
        "username": username,
        "password": PASSWORD,
        "claims": {"team": "blue"},
        "metadata": {"ticket": 17},
        "grants": {"scopes": [read], "roles": [role]},
    }
    created = ask(201, "POST", "/accounts", json=new)
    ask(409, "POST", "/accounts", json=new)
    one = f"/accounts/{username}"
    ask(200, "GET", created.headers["Location"])
    ask(200, "PATCH", one, json={"display_name": "Alice", "expires_at": "2099-01-01T00:00:00Z"})
    ask(412, "PATCH", one, json={"enabled": True}, headers={"If-Match": created.headers["ETag"]})
    ask(200, "GET", f"{one}/grants")
    ask(200, "GET", f"{one}/scopes")
    ask(200, "GET", "/unused-scopes")
    ask(422, "GET", "/unused-scopes?days=0")
    conditional = {"name": write, "with": "password", "until": "2099-01-01T00:00:00Z"}
    ask(200, "PUT", f"{one}/grants", json={"scopes": [read, conditional], "roles": [role]})
    ask(200, "PATCH", f"{one}/grants", json={"add": {"scopes": [write]}, "remove": {"roles": []}})
    ask(200, "GET", "/accounts/me")

    lines = json.dumps({"username": unique("bob")}) + "\n" + json.dumps({"colour": "red"}) + "\n"
    jsonl = {"Content-Type": "application/jsonl"}
    ask(200, "POST", "/accounts/import", data=lines, headers=jsonl)
    ask(415, "POST", "/accounts/import", data=lines, headers={"Content-Type": "text/plain"})
    ask(422, "POST", "/accounts/import?colour=red", data=lines, headers=jsonl)
    assert username in ask(200, "GET", "/accounts/export?enabled=true").text
    ask(422, "GET", "/accounts/export?colour=red")
    return username


def walk_manifests(ask: Ask, alice: Ask, service: str, username: str) -> None:
    manifest = {
        "services": [{"name": service, "title": "To-do"}],
        "accounts": [{"username": username, "display_name": "A."}],
        "grants": [{"account": username, "scopes": [f"{service}:read"]}],
    }
    planned = ask(200, "POST", "/apply?dry_run=true", json=manifest).json()
    assert ask(200, "POST", "/apply", json=manifest).json() == planned
    assert ask(200, "POST", "/apply", json=manifest).json() == {"changes": []}
    ask(400, "POST", "/apply", data="{", headers={"Content-Type": "application/json"})
    ask(415, "POST", "/apply", data="services: []", headers={"Content-Type": "text/yaml"})
    ask(422, "POST", "/apply?colour=red", json=manifest)
    alice(403, "POST", "/apply", json=manifest)


def walk_workloads(ask: Ask) -> None:
    issuer, account = unique("ci"), unique("deployer")
    new = {"name": issuer, "preset": "github", "issuer": f"https://{issuer}.example.com"}
    created = ask(201, "POST", "/issuers", json=new)
    ask(409, "POST", "/issuers", json=new)
    ask(422, "POST", "/issuers", json={**new, "algorithms": ["none"]})
    one = created.headers["Location"]
    ask(200, "GET", one)
    ask(200, "PATCH", one, json={"max_lifetime": 600})
    ask(201, "POST", "/accounts", json={"username": account, "kind": "machine"})
    claims = {"repository_id": "1", "ref": ["refs/heads/main", "refs/tags/*"]}
    rule = {"name": "deploy", "claims": claims, "account": account}
    created = ask(201, "POST", f"{one}/rules", json=rule)
    ask(409, "POST", f"{one}/rules", json=rule)
    ask(200, "GET", created.headers["Location"])
    ask(200, "PATCH", created.headers["Location"], json={"claims": {"ref": None, "n": 7}})
    ask(200, "GET", f"{one}/rules?account={account}")
    ask(200, "GET", "/issuers?enabled=true")
    ask(200, "POST", f"{one}/test", json={"assertion": "x"})
    ask(422, "POST", f"{one}/test", json={})
    ask(409, "DELETE", one)
    ask(204, "DELETE", created.headers["Location"])
    ask(204, "DELETE", one)


def walk_console_sessions(ask: Ask, username: str) -> None:
    path = f"/accounts/{username}/console-sessions"
    (session,) = ask(200, "GET", path).json()["items"]
    ask(204, "DELETE", f"{path}/{session['id']}")
    ask(404, "DELETE", f"{path}/{session['id']}")


def walk_second_factors(ask: Ask, username: str) -> None:
    path = f"/accounts/{username}/second-factors"
    (factor, _) = ask(200, "GET", path).json()["items"]
    ask(204, "DELETE", f"{path}/{factor['id']}")
    ask(404, "DELETE", f"{path}/{factor['id']}")


def walk_tokens(alice: Ask, anybody: Ask, service: str) -> None:
    token = "/auth/token"
    alice(200, "POST", token)
    alice(200, "GET", f"{token}?audience={service}")
    alice(200, "GET", f"/auth/forward?service={service}")
    alice(200, "GET", f"/auth/forward/{service}")
    alice(403, "GET", "/auth/forward?service=nothing")
    anybody(401, "GET", f"/auth/forward/{service}")
    for asked in ({"format": "json"}, {"format": "token"}, {"format": "header"}):
        alice(200, "POST", token, data=asked)
    alice(200, "POST", token, json={"scope": f"{service}:read", "lifetime": 60})
    alice(200, "GET", token, headers={"Accept": "application/jwt"})
    refreshed = alice(200, "POST", token, data={"scope": f"{service}:read offline_access"}).json()
    data = {"grant_type": "refresh_token", "refresh_token": refreshed["refresh_token"]}
    anybody(200, "POST", token, data=data)
    for wrong in (
        {"scope": "nobody:has"},
        {"audience": "nowhere"},
        {"grant_type": "password"},
        {"lifetime": "long"},
    ):
        alice(400, "POST", token, data=wrong)
    alice(400, "GET", f"{token}?lifetime=0")
    alice(400, "POST", token, data="{", headers={"Content-Type": "application/json"})
    alice(413, "POST", token, data="scope=" + "x" * 70_000, headers={"Content-Type": "text/plain"})
    anybody(401, "POST", token)
    anybody(401, "GET", token)
    anybody(200, "GET", "/auth/revocations", headers={"Accept": "application/jwt"})
    anybody(422, "GET", "/auth/revocations?since=then")
    body = {"token": alice(200, "POST", token).json()["access_token"]}
    alice(200, "POST", "/auth/explain", json={"scope": f"{service}:read"})
    alice(422, "POST", "/auth/explain", json={"api_key": "x"})
    alice(403, "POST", "/auth/explain", json={"account": "admin"})
    anybody(401, "POST", "/auth/explain", json={})
    (session,) = alice(200, "GET", "/accounts/me/tokens").json()["items"]
    alice(204, "DELETE", f"/accounts/me/tokens/{session['id']}")
    for path in ("/auth/introspect", "/auth/revoke", "/auth/introspect"):
        alice(200, "POST", path, data=body)
        alice(400, "POST", path)
        anybody(401, "POST", path)


def walk_api_keys(walk: Walk, server: LiveServer, username: str, service: str) -> None:
    alice = walk.as_caller(server.client(username, PASSWORD))
    keys = "/accounts/me/api-keys"
    new = {"name": "report", "scopes": [f"{service}:read"], "networks": ["127.0.0.0/8"]}
    again = {"Idempotency-Key": unique("key")}
    created = alice(201, "POST", keys, json=new, headers=again).json()
    assert alice(201, "POST", keys, json=new, headers=again).json() == created
    one = f"{keys}/{created['id']}"
    alice(200, "GET", one)
    alice(200, "PATCH", one, json={"description": "Nightly."})
    alice(412, "PATCH", one, json={"enabled": True}, headers={"If-Match": '"99"'})
    alice(201, "POST", f"{one}/rotate", json={"overlap": 3600})
    alice(409, "POST", f"{one}/rotate")
    by_key = walk.as_caller(server.client(username, created["secret"]))
    body = by_key(200, "POST", "/auth/token").json()
    assert {"api_key_successor", "api_key_expires_at"} <= body.keys()
    by_key(403, "POST", keys, json={"name": "another"})
    alice(200, "GET", f"{keys}?total=true&limit=1")
    alice(204, "DELETE", one)


def walk_lists(ask: Ask) -> None:
    ask(200, "GET", "/api-keys?total=true&limit=1")
    ask(200, "POST", "/api-keys/find", json={"prefix": "kysk_"})
    for path in ("/accounts", "/services", "/roles", "/audit"):
        first = ask(200, "GET", f"{path}?limit=1&total=true")
        assert int(first.headers["X-Total-Count"]) > 1
        ask(200, "GET", first.links["next"]["url"])
        ask(422, "GET", f"{path}?colour=red")
    ask(200, "GET", "/audit?sort=-sequence&limit=200")


def walk_state(ask: Ask) -> None:
    assert len(ask(200, "GET", "/activity?step=3600").json()["items"]) >= 24
    ask(422, "GET", "/activity?step=7")
    for path in ("/nodes", "/refresh-sessions", "/console-sessions", "/login-failures"):
        ask(200, "GET", path)
    for path in ("/audit/chain", "/audit/export?limit=1", "/diagnosis", "/settings"):
        ask(422 if "?" in path else 200, "GET", path)
    ask(200, "GET", "/audit/export?action=account.create")
    ask(422, "GET", "/login-failures?since=yesterday")


def walk_errors(ask: Ask, anybody: Ask, alice: Ask, username: str) -> None:
    anybody(401, "GET", "/accounts")
    anybody(401, "GET", "/accounts", headers={"Authorization": "Bearer nonsense"})
    alice(403, "GET", "/accounts")
    alice(403, "PUT", "/accounts/me/password", json={"password": "x", "current_password": "y"})
    assert "metadata" not in alice(200, "GET", "/accounts/me").json()
    ask(404, "GET", "/accounts/nobody")
    ask(404, "GET", "/nowhere")
    ask(405, "POST", "/health/live")
    ask(405, "PUT", "/accounts", json={})
    ask(400, "POST", "/accounts", data="{", headers={"Content-Type": "application/json"})
    ask(415, "POST", "/accounts", data="a=b")
    ask(415, "PATCH", f"/accounts/{username}", data="a", headers={"Content-Type": "text/plain"})
    ask(422, "POST", "/accounts", json={"colour": "red"})
    ask(413, "POST", "/accounts", json={"username": "x" * 70_000})


def walk_signing_keys(ask: Ask, anybody: Ask, service: str) -> None:
    keys = "/signing-keys"
    created = ask(201, "POST", f"{keys}/rotate", json={"algorithm": "EdDSA"}).json()
    ask(409, "POST", f"{keys}/rotate", json={"algorithm": "EdDSA"})
    ask(422, "POST", f"{keys}/rotate", json={"limit": 1})
    one = f"{keys}/{created['kid']}"
    assert created["kid"] in {key["kid"] for key in ask(200, "GET", keys).json()["items"]}
    ask(200, "GET", one)
    ask(200, "DELETE", one)
    ask(409, "DELETE", one)
    ask(409, "POST", f"{one}/compromise")
    private = ed25519.Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    body = {"private_key": private.decode()}
    brought = ask(201, "POST", f"{keys}/import", json=body).json()
    ask(409, "POST", f"{keys}/import", json=body)
    ask(422, "POST", f"{keys}/import", json={"private_key": "no key"})
    ask(200, "POST", f"{keys}/{brought['kid']}/compromise")
    ask(404, "GET", f"{keys}/nothing")
    anybody(200, "GET", f"/services/{service}/jwks")
    anybody(404, "GET", "/services/nothing/jwks")


def walk_deletions(ask: Ask, service: str, role: str, username: str) -> None:
    ask(409, "DELETE", f"/services/{service}")
    ask(409, "PUT", f"/services/{service}/scopes", json={"scopes": []})
    ask(200, "PUT", f"/accounts/{username}/grants", json={"roles": [role]})
    ask(409, "DELETE", f"/roles/{role}")
    ask(422, "DELETE", f"/roles/{role}?force=perhaps")
    ask(204, "PUT", f"/accounts/{username}/password", json={"password": PASSWORD[::-1]})
    ask(204, "DELETE", f"/accounts/{username}/password")
    ask(404, "DELETE", f"/accounts/{username}/password")
    ask(404, "DELETE", f"/accounts/{username}/tokens/nothing")
    ask(200, "DELETE", f"/accounts/{username}/tokens")
    ask(404, "DELETE", "/accounts/nobody/tokens")
    ask(412, "DELETE", f"/accounts/{username}", headers={"If-Match": '"99"'})
    ask(204, "DELETE", f"/accounts/{username}")
    ask(204, "DELETE", f"/roles/{role}?force=true")
    ask(204, "DELETE", f"/services/{service}?force=true")


# --- The addresses themselves ---------------------------------------------------------------------


def test_the_document_can_be_kept(server: LiveServer) -> None:
    anybody = server.client()
    response = anybody.get("/openapi.json")
    assert response.headers["Cache-Control"] == "public, max-age=300"
    assert len(response.content) < 300_000
    tag = response.headers["ETag"]
    assert not tag.startswith("W/")
    known = anybody.get("/openapi.json", headers={"If-None-Match": tag})
    assert (known.status_code, known.content) == (304, b"")
    assert anybody.request("HEAD", "/openapi.json").headers["ETag"] == tag


def test_the_first_server_is_the_one_that_was_asked_whatever_its_name(server: LiveServer) -> None:
    own, issuer = (each["url"] for each in server.client().get("/openapi.json").json()["servers"])
    assert issuer == server.url
    for base in (f"http://localhost:{server.port}/", "https://example.com/keyosk/"):
        assert urljoin(f"{base}openapi.json", own) == base


def test_the_page_has_all_that_it_needs_from_keyosk_alone(server: LiveServer) -> None:
    anybody = server.client()
    page = anybody.get("/docs")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "//" not in page.text
    needed = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    files = [name for name in needed if not name.startswith("data:")]
    assert len(files) == 3
    for name in files:
        response = anybody.get(f"/{name}")
        assert response.status_code == 200, name
        kind = "text/css" if name.endswith(".css") else "text/javascript"
        assert response.headers["Content-Type"] == f"{kind}; charset=utf-8"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
    start = anybody.get("/docs/start.js").text
    assert "//" not in start
    assert 'url: "openapi.json"' in start


def test_the_page_has_a_policy_of_its_own_and_nothing_else_has(server: LiveServer) -> None:
    anybody = server.client()
    policy = anybody.get("/docs").headers["Content-Security-Policy"]
    directives = dict(each.split(" ", 1) for each in policy.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == directives["style-src"] == "'self'"
    assert directives["frame-ancestors"] == "'none'"
    assert "unsafe" not in policy
    for path in ("/openapi.json", "/docs/start.js", "/docs/nothing", "/accounts"):
        others = anybody.get(path).headers["Content-Security-Policy"]
        assert others == "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"


@pytest.mark.attack
@table("name", ["..%2F__init__.py", "%2e%2e/__init__.py", "VERSION", "swagger-ui.css%00", "a/b.js"])
def test_the_page_gives_no_file_but_its_own(server: LiveServer, name: str) -> None:
    assert server.client().get(f"/docs/{name}").status_code == 404
