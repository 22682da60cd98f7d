"""A member or parameter that is given twice means two things: it is refused wherever it is read."""

import json

import pytest

from keyosk import app
from keyosk.ids import new_id
from keyosk.installation import Installation
from keyosk.model import OPERATOR, Kind, Scope
from keyosk.web import operations
from keyosk.web.parameters import FORM
from keyosk.web.route import Route
from keyosk.web.routes import ROUTES
from live import ADMIN_PASSWORD

BODIES = [
    (route, method)
    for route in ROUTES
    for method in sorted(route.access)
    if operations.of(route.resource, method).body is not None and not route.streams  # by line
]
IDS = [f"{method} {route.path}" for route, method in BODIES]


def objects(installation: Installation) -> dict[str, str]:
    """One of each kind, by how the addresses call it."""
    installation.services.create(OPERATOR, name="todo", scopes=[Scope("todo:read")])
    installation.roles.create(OPERATOR, name="editors", scopes=["todo:read"])
    key = installation.api_keys.create(OPERATOR, "admin", name="key")
    installation.issuers.create(OPERATOR, name="ci", issuer="https://ci.example.com")
    accounts = installation.accounts
    accounts.add(OPERATOR, accounts.draft(OPERATOR, username="deployer", kind=Kind.MACHINE))
    installation.workload_rules.create(
        OPERATOR, "ci", name="deploy", claims={"sub": ("x",)}, account="deployer"
    )
    return {
        "<account>": "me",
        "<service>": "todo",
        "<role>": "editors",
        "<issuer>": "ci",
        "<rule>": "deploy",
        "<key>": key.key.id,
        "<factor>": new_id(),  # the body is read before it is looked for
        "<kid>": installation.signing_keys.current.default.kid,
    }


@pytest.mark.attack
@pytest.mark.parametrize(("route", "method"), BODIES, ids=IDS)
def test_a_double_member_is_refused(installation: Installation, route: Route, method: str) -> None:
    path = route.path
    for name, value in objects(installation).items():
        path = path.replace(name, value)
    assert "<" not in path
    client = app.create_app(installation).test_client()
    operation = operations.of(route.resource, method)
    forms = operation.body_types or ("application/json",)
    for form in forms:
        assert operation.body is not None
        member = next(iter(operation.body().fields))
        doubled = f'{{"{member}": "one", "{member}": "two"}}'
        assert list(json.loads(doubled).values()) == ["two"]  # as most parsers do it
        response = client.open(
            path,
            method=method,
            data=f"{member}=one&{member}=two" if form == FORM else doubled,
            content_type=form,
            auth=("admin", ADMIN_PASSWORD),
        )
        assert response.status_code in (400, 422), (form, response.get_data(as_text=True))
        assert "twice" in response.get_data(as_text=True)
