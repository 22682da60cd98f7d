"""A list that changes as fast as it is read ends all the same, where it ended at its first page."""

import itertools
import json
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest

from keyosk import app
from keyosk.installation import Installation
from keyosk.model import OPERATOR, ListQuery
from keyosk.web import paging
from live import ADMIN_PASSWORD

pytestmark = pytest.mark.every_database(always=True)

_MOST = 20  # pages; there are 5 with 2 objects each


def walk(
    installation: Installation, path: str, sort: str, between: Callable[[list[Any]], None]
) -> list[str]:
    """The ids on all pages of a list, with something done after each page."""
    client = app.create_app(installation).test_client()
    query: dict[str, str] = {"sort": sort, "limit": "2"}
    seen: list[str] = []
    for _ in range(_MOST):
        response = client.get(path, query_string=query, auth=("admin", ADMIN_PASSWORD))
        assert response.status_code == 200, response.get_json()
        body = response.get_json()
        seen += [item["id"] for item in body["items"]]
        if body["next"] is None:
            return seen
        query["cursor"] = body["next"]
        between(body["items"])
    raise AssertionError("the list does not end")


@pytest.fixture
def people(installation: Installation) -> list[str]:
    """Ten accounts besides the admin, oldest first."""
    return [
        installation.grants.create_account(OPERATOR, [], username=name).id
        for name in (*(f"m{number:02}" for number in range(9)), "zz")
    ]


def renaming(
    installation: Installation, names: Iterator[str], only: Collection[str] | None = None
) -> Callable[[list[Any]], None]:
    """Give each account of a page but the admin another name, or ``only`` these."""

    def rename(items: list[Any]) -> None:
        for item in items:
            if item["username"] != "admin" and (only is None or item["id"] in only):
                installation.accounts.change(OPERATOR, item["id"], {"username": next(names)})

    return rename


def numbered(form: str, *, backwards: bool = False) -> Iterator[str]:
    """Names in the order of their numbers, or against it."""
    return (form.format(999 - number if backwards else number) for number in itertools.count())


@pytest.mark.parametrize("sort", ["updated_at", "created_at", "username"])
def test_a_list_ends_though_all_that_was_seen_changes(
    installation: Installation, people: list[str], sort: str
) -> None:
    numbers = itertools.count()

    def change(items: list[Any]) -> None:
        for item in items:
            if item["username"] != "admin":
                name = f"changed {next(numbers)}"
                installation.accounts.change(OPERATOR, item["id"], {"display_name": name})

    seen = walk(installation, "/accounts", sort, change)
    assert set(people) <= set(seen)


@pytest.mark.parametrize("direction", ["", "-"])
def test_a_list_by_name_ends_though_all_that_was_seen_is_renamed(
    installation: Installation, people: list[str], direction: str
) -> None:
    names = numbered("a{:03}", backwards=True) if direction else numbered("zz{:03}")
    rename = renaming(installation, names)
    seen = walk(installation, "/accounts", f"{direction}username", rename)
    assert set(people) <= set(seen)
    assert len(seen) == len(set(seen))


def test_a_list_by_name_that_is_too_long_to_be_counted_at_once_ends_too(
    installation: Installation, people: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "COUNTED", 4)
    rename = renaming(installation, numbered("y{:03}"), people[:4])
    seen = walk(installation, "/accounts", "username", rename)
    assert set(people) <= set(seen)


@pytest.mark.parametrize("direction", ["", "-"])
def test_a_list_by_name_ends_though_what_was_seen_is_always_ahead_of_it(
    installation: Installation, people: list[str], direction: str
) -> None:
    names = numbered("l{:03}", backwards=True) if direction else numbered("y{:03}")
    rename = renaming(installation, names, people[:4])
    seen = walk(installation, "/accounts", f"{direction}username", rename)
    # Whatever was left alone is there, wherever the others went.
    assert set(people) <= set(seen)
    # By name as many as there were and a page, a started page besides, and then each by id.
    assert len(seen) <= 2 * (len(people) + 1) + 2 * 2


def test_an_account_s_keys_by_name_end_though_renamed_ahead(installation: Installation) -> None:
    keys = [
        installation.api_keys.create(OPERATOR, "admin", name=f"m{number}").key.id
        for number in range(6)
    ]
    numbers = itertools.count()

    def rename(items: list[Any]) -> None:
        for item in items:
            if item["id"] in keys[:3]:
                name = f"x{next(numbers):03}"
                installation.api_keys.change(OPERATOR, "admin", item["id"], {"name": name})

    seen = walk(installation, "/accounts/admin/api-keys", "name", rename)
    assert set(seen) == set(keys)
    assert seen[-6:] == keys


def test_a_list_by_name_shows_each_object_once_while_none_is_renamed(
    installation: Installation, people: list[str]
) -> None:
    gone: list[str] = []

    def remove(items: list[Any]) -> None:
        for item in items[:1]:
            if item["username"] != "admin":
                gone.append(item["id"])
                installation.accounts.remove(OPERATOR, item["id"])

    for sort in ("username", "-username"):
        seen = walk(installation, "/accounts", sort, remove)
        names = [installation.accounts.get(each).username for each in seen if each not in gone]
        assert names == sorted(names, reverse=sort[0] == "-")
        assert len(seen) == len(set(seen))


def test_by_creation_each_object_is_seen_once_though_its_name_is_always_ahead(
    installation: Installation, people: list[str]
) -> None:
    rename = renaming(installation, numbered("y{:03}"))  # before "zz", the last by name
    seen = walk(installation, "/accounts", "created_at", rename)
    assert set(people) <= set(seen)
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("sort", ["created_at", "updated_at", "username", "-username"])
def test_a_list_ends_though_more_is_made_all_the_time(
    installation: Installation, people: list[str], sort: str
) -> None:
    numbers = itertools.count()

    def make(items: list[Any]) -> None:
        for _ in range(3):
            number = next(numbers)
            # Always ahead of what was read last.
            name = f"l{999 - number:03}" if sort[0] == "-" else f"n{number:03}"
            installation.grants.create_account(OPERATOR, [], username=name)

    seen = walk(installation, "/accounts", sort, make)
    assert set(people) <= set(seen)
    assert len(seen) <= len(people) + 1


def test_an_export_and_a_command_end_though_more_is_made_all_the_time(
    installation: Installation, people: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyosk.bulk.import_export._PAGE", 2)
    numbers = itertools.count()
    exported = []
    for page in itertools.islice(installation.bulk.export_accounts({}), _MOST):
        exported += [account.id for account, _ in page]
        for _ in range(3):
            installation.grants.create_account(OPERATOR, [], username=f"new{next(numbers)}")
    assert set(people) <= set(exported)
    assert len(exported) == len(people) + 1


def test_the_audit_log_ends_though_rows_are_written_all_the_time(
    installation: Installation, people: list[str]
) -> None:
    installation.audit.seal()
    before = len(installation.audit.page(ListQuery(limit=200, sort="sequence")))

    def write(page: list[Any]) -> None:
        for _ in range(3):
            installation.accounts.revoke_tokens(OPERATOR, people[0])
        installation.audit.seal()

    client = app.create_app(installation).test_client()
    query: dict[str, str] = {"limit": "3"}
    rows = 0
    for _ in range(before):
        response = client.get("/audit", query_string=query, auth=("admin", ADMIN_PASSWORD))
        body = json.loads(response.text)
        rows += len(body["items"])
        if body["next"] is None:
            break
        query["cursor"] = body["next"]
        write(body["items"])
    else:
        pytest.fail("the list does not end")
    assert rows >= before
