"""How many statements a view sends to the database: as many, however many accounts there are."""

from typing import Final

import pytest

from installed import statements
from keyosk.installation import Installation
from keyosk.model import OPERATOR, Grant, Scope
from test_console_views import get, in_process

pytestmark = pytest.mark.every_database

#: What each may send at most; a page of accounts in the table of rights asks once for each.
_MOST: Final = {
    "/console/accounts": 7,
    "/console/accounts?q=person": 8,
    "/console/api-keys": 9,
    "/console/matrix?service=todo": 10,
    "/console/matrix?service=todo&rows=accounts": 36,
    "/console/least-privilege": 76,
    "/console/services/todo?scope=todo:read": 16,
    "/console/signing-keys": 8,
}


def fill(keyosk: Installation, first: int, last: int) -> None:
    for number in range(first, last):
        name = f"person{number}"
        grants = [Grant(scope="todo:read"), Grant(role="reader"), Grant(scope="keyosk:audit:read")]
        keyosk.grants.create_account(OPERATOR, grants, username=name)
        keyosk.api_keys.create(OPERATOR, name, name="ci")


@pytest.mark.slow
def test_a_view_costs_the_same_however_many_accounts_there_are(prepared_url: str) -> None:
    with in_process(prepared_url) as (keyosk, client):
        keyosk.services.create(OPERATOR, name="todo", scopes=[Scope("todo:read")])
        keyosk.roles.create(OPERATOR, name="reader", scopes=["todo:read"])

        def counts() -> dict[str, int]:
            costs = {}
            for path in _MOST:
                assert get(client, path).status == 200  # what is remembered is known now
                with statements() as texts:
                    get(client, path)
                costs[path] = len(texts)
            return costs

        fill(keyosk, 0, 60)
        few = counts()
        fill(keyosk, 60, 160)
        many = counts()
        for path, most in _MOST.items():
            assert many[path] <= most, (path, many[path])
            assert abs(many[path] - few[path]) <= 4, path
