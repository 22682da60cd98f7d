"""keyosk apply: an installation made what a file says, all of it or nothing."""

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import fields

from installed import EVERY_AUDIT_ROW, rows_of
from keyosk.apply.manifest import Manifest, Step
from keyosk.cli import documents
from keyosk.errors import Invalid
from keyosk.installation import Installation
from keyosk.merge_patch import is_same, merge_difference, merge_patch
from keyosk.model import (
    ADMIN,
    OPERATOR,
    USUAL_CREDENTIALS,
    CredentialKind,
    Grant,
    Kind,
    ListQuery,
    Scope,
)
from keyosk.web import bodies
from keyosk.web.manifest_schemas import ManifestSchema, manifest_of, shape_of_step
from live import LiveServer

# Part of `make test-long`.
pytestmark = [pytest.mark.slow, pytest.mark.every_database]

PAGE: Final = Path(__file__).parents[1] / "docs" / "how-to" / "apply.md"

SERVICE: Final = {"name": "todo", "scopes": ["todo:read", "todo:write"]}
ROLE: Final = {"name": "editor", "scopes": ["todo:read"]}
ACCOUNT: Final = {"username": "alice", "grants": {"roles": ["editor"]}}
WHOLE: Final = {"services": [SERVICE], "roles": [ROLE], "accounts": [ACCOUNT]}


def manifest(**members: Any) -> Manifest:
    return manifest_of(bodies.checked(ManifestSchema(), members))


def apply(installation: Installation, **members: Any) -> list[tuple[str, str, str]]:
    return told(installation.manifests.apply(OPERATOR, manifest(**members)))


def plan(installation: Installation, **members: Any) -> list[tuple[str, str, str]]:
    return told(installation.manifests.plan(OPERATOR, manifest(**members)))


def told(steps: tuple[Step, ...]) -> list[tuple[str, str, str]]:
    return [(str(step.action), str(step.noun), step.name) for step in steps]


def refusal(installation: Installation, **members: Any) -> dict[str, str]:
    """The faults of a manifest that is refused, by path, both planned and applied."""
    before = state(installation)
    with pytest.raises(Invalid) as planned:
        installation.manifests.plan(OPERATOR, manifest(**members))
    with pytest.raises(Invalid) as applied:
        installation.manifests.apply(OPERATOR, manifest(**members))
    assert planned.value.faults == applied.value.faults
    assert state(installation) == before
    return {fault.field: fault.message for fault in applied.value.faults}


def state(installation: Installation) -> dict[str, Any]:
    """All that a manifest can touch, with the versions and the audit log."""
    everything = ListQuery(limit=1000)
    accounts = installation.accounts.page(everything)
    return {
        "services": installation.services.page(everything),
        "roles": installation.roles.page(everything),
        "accounts": accounts,
        "grants": {each.username: installation.grants.of(each.id)[1] for each in accounts},
        "audit": rows_of(installation, f"SELECT action, target FROM {EVERY_AUDIT_ROW} ORDER BY id"),
        "notes": rows_of(installation, "SELECT * FROM declared ORDER BY object_id, scope, role"),
    }


def actions(installation: Installation) -> list[str]:
    rows = rows_of(installation, f"SELECT action FROM {EVERY_AUDIT_ROW} ORDER BY id")
    return [str(row[0]) for row in rows]


# --- Making, changing, nothing to do --------------------------------------------------------------


def test_everything_is_made(installation: Installation) -> None:
    assert apply(
        installation,
        services=[
            {
                "name": "todo",
                "audience": "https://todo.example.com",
                "title": "To-do",
                "scopes": ["todo:write", {"name": "todo:read", "description": "See"}],
                "accepts": "api_key",
                "token_lifetime": 600,
                "claims": ["team"],
            }
        ],
        roles=[{"name": "editor", "scopes": ["todo:read", "todo:write"]}],
        accounts=[
            {
                "username": "Alice",
                "kind": "machine",
                "claims": {"team": "blue"},
                "grants": {
                    "roles": [{"name": "editor", "until": "2040-01-01T00:00:00Z"}],
                    "scopes": [{"name": "todo:read", "with": "password"}],
                },
            }
        ],
    ) == [
        ("create", "service", "todo"),
        ("create", "role", "editor"),
        ("create", "account", "Alice"),
    ]
    service = installation.services.get("todo")
    assert service.policy.audience == "https://todo.example.com"
    assert service.policy.accepts == {CredentialKind.API_KEY}
    assert service.policy.token_lifetime == 600
    assert service.scopes == (Scope("todo:read", "See"), Scope("todo:write"))
    assert installation.roles.get("editor").scopes == ("todo:read", "todo:write")
    account, grants = installation.grants.of("alice")
    assert (account.kind, account.claims) == (Kind.MACHINE, {"team": "blue"})
    assert account.enabled
    assert not account.has_password
    assert grants == (
        Grant(scope="todo:read", credential=CredentialKind.PASSWORD),
        Grant(role="editor", until=2_208_988_800),
    )


def test_the_second_run_finds_nothing_to_do_and_writes_nothing(installation: Installation) -> None:
    whole = {
        **WHOLE,
        "owner": "ops",
        "prune": True,
        "grants": [{"account": "admin", "roles": ["editor"]}],
    }
    assert len(apply(installation, **whole)) == 4
    before = state(installation)
    assert plan(installation, **whole) == []
    assert apply(installation, **whole) == []
    assert state(installation) == before


def test_a_plan_changes_nothing_and_says_what_apply_then_does(installation: Installation) -> None:
    before = state(installation)
    planned = installation.manifests.plan(OPERATOR, manifest(**WHOLE))
    assert state(installation) == before
    assert installation.manifests.apply(OPERATOR, manifest(**WHOLE)) == planned


def test_each_change_is_in_the_audit_log_once(installation: Installation) -> None:
    known = len(actions(installation))
    apply(installation, **WHOLE)
    assert actions(installation)[known:] == [
        "service.create",
        "role.create",
        "account.create",
        "grants.change",
    ]
    known += 4
    apply(installation, services=[{"name": "todo", "title": "To-do"}])
    assert actions(installation)[known:] == ["service.change"]
    installation.audit.seal()
    assert installation.audit_verifier.verify().fault is None


def test_only_fields_that_are_named_are_changed(installation: Installation) -> None:
    apply(installation, **WHOLE)
    installation.accounts.change(
        OPERATOR,
        "alice",
        {"enabled": False, "metadata": {"a": {"b": 1, "c": 2}}, "claims": {"x": 1}},
    )
    assert plan(installation, **WHOLE) == []
    assert apply(installation, accounts=[{"username": "alice", "claims": {"y": True}}]) == [
        ("change", "account", "alice")
    ]
    account, grants = installation.grants.of("alice")
    assert not account.enabled
    assert account.metadata == {"a": {"b": 1, "c": 2}}
    assert account.claims == {"y": True}
    assert grants == (Grant(role="editor"),)


@pytest.mark.parametrize(
    ("old", "new", "becomes"),
    [
        ({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": 1}, {"a": True}, {"a": True}),
        ({"a": 1}, {"a": {"b": None, "c": 1}, "d": None}, {"a": {"c": 1}}),
        ({"a": {"b": 1}}, {}, {}),
        ({"a": {"b": 1}}, None, {}),
        ({"a": [1, None]}, {"a": [None]}, {"a": [None]}),
    ],
)
def test_an_object_becomes_just_what_the_manifest_says(
    installation: Installation, old: Any, new: Any, becomes: Any
) -> None:
    installation.grants.create_account(OPERATOR, [], username="alice", metadata=old)
    members = {"accounts": [{"username": "alice", "metadata": new or {}}]}
    assert len(apply(installation, **members)) == 1
    assert json.dumps(installation.accounts.get("alice").metadata) == json.dumps(becomes)
    assert apply(installation, **members) == []


_PLAIN: Final = st.recursive(
    st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner | st.none()) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=10,
)
_STORED: Final = st.recursive(
    st.none() | _PLAIN, lambda inner: st.dictionaries(st.text(max_size=2), inner), max_leaves=10
)


@given(
    old=st.dictionaries(st.text(max_size=2), _STORED),
    wanted=st.dictionaries(st.text(max_size=2), _PLAIN),
)
def test_the_difference_is_the_patch_that_makes_one_of_the_other(
    old: dict[str, Any], wanted: dict[str, Any]
) -> None:
    patch = merge_difference(old, wanted)
    assert is_same(merge_patch(old, patch), wanted)
    assert (patch == {}) == is_same(old, wanted)


def test_null_resets_a_field(installation: Installation) -> None:
    apply(
        installation,
        services=[
            {**SERVICE, "token_lifetime": 60, "title": "T", "accepts": "password", "enabled": False}
        ],
        accounts=[{"username": "alice", "expires_at": "2040-01-01T00:00:00Z"}],
    )
    nulls = {
        "services": [
            {
                "name": "todo",
                "token_lifetime": None,
                "title": None,
                "accepts": None,
                "enabled": None,
            }
        ],
        "accounts": [{"username": "alice", "expires_at": None}],
    }
    assert len(apply(installation, **nulls)) == 2
    service = installation.services.get("todo")
    assert service.policy.token_lifetime is None
    assert service.policy.accepts == USUAL_CREDENTIALS
    assert service.policy.enabled
    assert service.title == ""
    assert installation.accounts.get("alice").expires_at is None
    assert apply(installation, **nulls) == []


def test_steps_tell_before_and_after_of_what_differs(installation: Installation) -> None:
    apply(installation, **WHOLE)
    (step,) = installation.manifests.plan(
        OPERATOR,
        manifest(
            accounts=[
                {
                    "username": "alice",
                    "display_name": "Alice",
                    "kind": "person",
                    "grants": {"scopes": [{"name": "todo:read", "until": "2040-01-01T00:00:00Z"}]},
                }
            ]
        ),
    )
    assert shape_of_step(step) == {
        "action": "change",
        "kind": "account",
        "name": "alice",
        "before": {"display_name": "", "grants": {"scopes": [], "roles": ["editor"]}},
        "after": {
            "display_name": "Alice",
            "grants": {
                "scopes": [{"name": "todo:read", "until": "2040-01-01T00:00:00Z"}],
                "roles": [],
            },
        },
    }


def test_scopes_move_from_what_had_them_to_what_has_them_now(installation: Installation) -> None:
    apply(installation, **WHOLE)
    members = {
        "services": [{"name": "todo", "scopes": ["todo:write", "todo:all"]}],
        "roles": [{"name": "editor", "scopes": ["todo:all"]}],
    }
    assert len(apply(installation, **members)) == 2
    assert [scope.name for scope in installation.services.get("todo").scopes] == [
        "todo:all",
        "todo:write",
    ]
    assert installation.roles.get("editor").scopes == ("todo:all",)
    assert apply(installation, **members) == []


def test_a_scope_in_use_elsewhere_goes_only_by_force(installation: Installation) -> None:
    apply(installation, **WHOLE)
    members = {"services": [{"name": "todo", "scopes": ["todo:write"]}]}
    faults = refusal(installation, **members)
    assert "is still part of 1 role (editor)" in faults["services.0"]
    installation.manifests.apply(OPERATOR, manifest(**members), force=True)
    assert installation.roles.get("editor").scopes == ()


# --- All or nothing -------------------------------------------------------------------------------


def test_a_fault_in_the_last_object_leaves_nothing(installation: Installation) -> None:
    before = state(installation)
    with pytest.raises(Invalid, match=r"accounts\.1\.grants\.roles: there is no role ghost"):
        apply(
            installation,
            **{**WHOLE, "accounts": [ACCOUNT, {"username": "bob", "grants": {"roles": ["ghost"]}}]},
        )
    assert state(installation) == before


def test_a_database_that_refuses_the_last_object_leaves_nothing(installation: Installation) -> None:
    installation.services.create(OPERATOR, name="other", audience="taken")
    faults = refusal(
        installation,
        services=[SERVICE, {"name": "late", "audience": "taken"}],
        roles=[ROLE],
    )
    taken = "Another service already has the name or audience taken, or a similar one."
    assert faults == {"services.1.audience": taken}


@pytest.mark.fault
def test_a_crash_in_the_last_object_leaves_nothing(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(installation)

    def crash(*_: Any, **__: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(type(installation.grants), "create_account", crash)
        with pytest.raises(MemoryError):
            apply(installation, owner="ops", **WHOLE)
    assert state(installation) == before
    assert len(apply(installation, owner="ops", **WHOLE)) == 3


def test_applying_gets_along_with_itself_and_with_other_changes(installation: Installation) -> None:
    """Nobody waits in a circle, and the last one wins as a whole."""
    names = [f"person-{number}" for number in range(6)]

    def state_of(scope: str) -> dict[str, Any]:
        return {
            "services": [{"name": "todo", "title": scope}],
            "roles": [{"name": "editor", "description": scope}],
            "accounts": [{"username": name, "grants": {"scopes": [scope]}} for name in names],
        }

    apply(installation, services=[SERVICE])
    apply(installation, **state_of("todo:read"))

    def applying(scope: str) -> None:
        for _ in range(5):
            apply(installation, **state_of(scope))

    def changing(numbers: range) -> None:
        for number in numbers:
            name = names[-1 - number % len(names)]
            installation.accounts.change(OPERATOR, name, {"enabled": bool(number % 2)})
            installation.grants.change(OPERATOR, name, add=[Grant("todo:write")])
            installation.services.change(OPERATOR, "todo", {"contact": str(number)})
            installation.roles.change(OPERATOR, "editor", {"scopes": ["todo:read"]})

    def closing(work: Callable[[Any], None], argument: Any) -> None:
        try:
            work(argument)
        finally:
            installation.database.close()

    with ThreadPoolExecutor(4) as pool:
        works = [
            pool.submit(closing, applying, "todo:read"),
            pool.submit(closing, applying, "todo:write"),
            pool.submit(closing, changing, range(12)),
            pool.submit(closing, changing, range(12, 24)),
        ]
    for work in works:
        work.result()
    apply(installation, **state_of("todo:read"))
    assert plan(installation, **state_of("todo:read")) == []


# --- What is refused ------------------------------------------------------------------------------


def test_all_faults_are_told_at_once_by_their_paths() -> None:
    with pytest.raises(Invalid) as refused:
        manifest(
            owners="x",
            services=[{"name": "todo", "titel": "x", "token_lifetime": "600"}, {}],
            accounts=[
                {"username": "alice", "password": "in a file", "enabled": "yes"},
                {"username": "bob", "api_keys": []},
                {"username": "eve", "grants": {"scopes": [{"name": "a", "with": "luck"}]}},
            ],
            grants=[{"roles": ["editor"]}],
        )
    faults = {fault.field: fault.message for fault in refused.value.faults}
    assert faults.keys() == {
        "owners",
        "services.0.titel",
        "services.0.token_lifetime",
        "services.1.name",
        "accounts.0.password",
        "accounts.0.enabled",
        "accounts.1.api_keys",
        "accounts.2.grants.scopes.0.with",
        "grants.0.account",
    }
    assert faults["accounts.0.password"].startswith("Is not allowed in this file")
    assert "in a file" not in str(refused.value)


def test_rules_of_the_domain_are_told_by_their_paths_too(installation: Installation) -> None:
    faults = refusal(
        installation,
        services=[{"name": "Todo", "token_lifetime": 1, "scopes": ["a b"]}],
        roles=[{"name": "editor", "scopes": ["ghost:read"]}],
        accounts=[
            {"username": "a:b"},
            {"username": "bob", "grants": {"scopes": ["ghost:read"], "roles": ["ghost"]}},
        ],
        grants=[{"account": "nobody", "roles": ["editor"]}],
    )
    assert faults.keys() == {
        "services.0.name",
        "services.0.token_lifetime",
        "services.0.scopes",
        "roles.0.scopes",
        "accounts.0.username",
        "accounts.1.grants.scopes",
        "accounts.1.grants.roles",
        "grants.0",
    }


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"prune": True}, "prune"),
        ({"owner": "Not A Name"}, "owner"),
        ({"services": [{"name": "a"}, {"name": "a"}]}, "services.1.name"),
        ({"roles": [{"name": "a"}, {"name": "a"}]}, "roles.1.name"),
        ({"accounts": [{"username": "a"}, {"username": "A"}]}, "accounts.1.username"),
        ({"grants": [{"account": "admin"}, {"account": "Admin"}]}, "grants.1.account"),
        (
            {"grants": [{"account": "admin", "scopes": [ADMIN, {"name": ADMIN, "with": None}]}]},
            "grants.0.grants",
        ),
        (
            {
                "accounts": [{"username": "a", "grants": {}}],
                "grants": [{"account": "A", "roles": []}],
            },
            "grants.0.account",
        ),
    ],
)
def test_contradictions_are_refused(installation: Installation, members: Any, path: str) -> None:
    assert refusal(installation, **members).keys() == {path}


@pytest.mark.parametrize("field", ["title", "scopes", "enabled"])
def test_keyosk_itself_cannot_be_in_a_manifest(installation: Installation, field: str) -> None:
    value = {"title": "Mine", "scopes": [], "enabled": False}[field]
    faults = refusal(installation, services=[{"name": "keyosk", field: value}])
    assert faults.keys() == {"services.0.name"}


def test_the_scopes_of_keyosk_can_be_given(installation: Installation) -> None:
    apply(
        installation,
        roles=[{"name": "auditor", "scopes": ["keyosk:audit:read"]}],
        accounts=[{"username": "alice", "grants": {"scopes": [ADMIN], "roles": ["auditor"]}}],
    )
    assert installation.grants.of("alice")[1] == (Grant(ADMIN), Grant(role="auditor"))


@pytest.mark.attack
@pytest.mark.parametrize(
    "change",
    [
        {"enabled": False},
        {"grants": {}},
        {"expires_at": "2040-01-01T00:00:00Z"},
        {"grants": {"scopes": [{"name": ADMIN, "until": "2040-01-01T00:00:00Z"}]}},
        {"grants": {"scopes": [{"name": ADMIN, "with": "api_key"}]}},
    ],
)
def test_the_last_admin_stays(installation: Installation, change: Any) -> None:
    faults = refusal(installation, accounts=[{"username": "admin", **change}])
    assert "leave no account that can administer" in faults["accounts.0"]


@pytest.mark.attack
def test_names_that_look_like_ids_name_nothing(installation: Installation) -> None:
    admin = installation.accounts.get("admin").id
    faults = refusal(installation, accounts=[{"username": admin, "display_name": "x"}])
    assert faults.keys() == {"accounts.0.username"}


# --- Whose it is ----------------------------------------------------------------------------------


def test_pruning_deletes_what_an_earlier_file_made_and_no_more(installation: Installation) -> None:
    installation.services.create(OPERATOR, name="by-hand", scopes=[Scope("hand:read")])
    installation.roles.create(OPERATOR, name="by-hand")
    installation.grants.create_account(OPERATOR, [], username="by-hand")
    apply(installation, owner="other", services=[{"name": "theirs"}], accounts=[{"username": "t"}])
    mine = {"owner": "ops", "prune": True}
    apply(
        installation,
        **mine,
        services=[SERVICE, {"name": "by-hand", "title": "Changed, not made"}],
        roles=[ROLE, {"name": "by-hand", "description": "Changed, not made"}],
        accounts=[ACCOUNT, {"username": "by-hand", "display_name": "Changed, not made"}],
    )
    assert apply(installation, **mine) == [
        ("delete", "service", "todo"),
        ("delete", "role", "editor"),
        ("delete", "account", "alice"),
    ]
    assert {each.name for each in installation.services.page(ListQuery())} == {
        "keyosk",
        "by-hand",
        "theirs",
    }
    assert {each.name for each in installation.roles.page(ListQuery())} == {"by-hand"}
    assert {each.username for each in installation.accounts.page(ListQuery())} == {
        "admin",
        "by-hand",
        "t",
    }
    assert apply(installation, **mine) == []


def test_without_prune_nothing_is_deleted_until_a_file_asks(installation: Installation) -> None:
    apply(installation, owner="ops", **WHOLE)
    assert apply(installation, owner="ops") == []
    assert len(plan(installation, owner="ops", prune=True)) == 3


def test_a_file_without_an_owner_deletes_nothing(installation: Installation) -> None:
    apply(installation, **WHOLE)
    assert plan(installation, owner="ops", prune=True) == []


def test_what_was_deleted_and_made_again_by_hand_is_not_deleted(installation: Installation) -> None:
    apply(installation, owner="ops", services=[SERVICE], roles=[ROLE], accounts=[ACCOUNT])
    installation.accounts.remove(OPERATOR, "alice")
    installation.roles.remove(OPERATOR, "editor")
    installation.services.remove(OPERATOR, "todo")
    installation.services.create(OPERATOR, name="todo")
    installation.roles.create(OPERATOR, name="editor")
    installation.grants.create_account(OPERATOR, [], username="alice")
    assert apply(installation, owner="ops", prune=True) == []
    assert rows_of(installation, "SELECT * FROM declared") == []


def test_what_others_use_is_deleted_only_by_force(installation: Installation) -> None:
    apply(installation, owner="ops", services=[SERVICE], roles=[ROLE])
    installation.grants.change(OPERATOR, "admin", add=[Grant("todo:read"), Grant(role="editor")])
    gone = {"owner": "ops", "prune": True}
    assert refusal(installation, **gone).keys() == {"prune"}
    installation.manifests.apply(OPERATOR, manifest(**gone), force=True)
    assert installation.grants.of("admin")[1] == (Grant(ADMIN),)


@pytest.mark.parametrize("owner", ["other", None])
def test_what_one_file_made_no_other_names(installation: Installation, owner: str | None) -> None:
    apply(installation, owner="ops", **WHOLE)
    faults = refusal(
        installation,
        **({"owner": owner} if owner else {}),
        services=[{"name": "todo", "title": "x"}],
        roles=[{"name": "editor"}],
        accounts=[{"username": "ALICE"}],
    )
    assert faults == {
        "services.0": "todo was made by ops's file; take_over moves it to this one",
        "roles.0": "editor was made by ops's file; take_over moves it to this one",
        "accounts.0": "ALICE was made by ops's file; take_over moves it to this one",
    }


def test_taking_over_moves_an_object_to_another_file(installation: Installation) -> None:
    apply(installation, owner="ops", **WHOLE)
    version = installation.services.get("todo").version
    (step,) = installation.manifests.apply(
        OPERATOR,
        manifest(owner="todo-team", prune=True, services=[SERVICE]),
        take_over=True,
    )
    assert (step.before, step.after) == ({"owner": "ops"}, {"owner": "todo-team"})
    assert installation.services.get("todo").version == version
    assert apply(installation, owner="ops", prune=True) == [
        ("delete", "role", "editor"),
        ("delete", "account", "alice"),
    ]
    assert apply(installation, owner="todo-team", prune=True) == [("delete", "service", "todo")]


# --- Grants ---------------------------------------------------------------------------------------


def test_the_grants_of_an_account_are_made_just_these(installation: Installation) -> None:
    apply(installation, **WHOLE)
    installation.grants.change(OPERATOR, "alice", add=[Grant("todo:write")])
    assert apply(installation, **WHOLE) == [("change", "account", "alice")]
    assert installation.grants.of("alice")[1] == (Grant(role="editor"),)


def test_grants_by_themselves_take_nothing(installation: Installation) -> None:
    apply(installation, services=[SERVICE], roles=[ROLE])
    members = {
        "grants": [
            {
                "account": "admin",
                "scopes": [{"name": "todo:read", "with": "password"}],
                "roles": ["editor"],
            }
        ]
    }
    assert apply(installation, **members) == [("change", "grants", "admin")]
    assert installation.grants.of("admin")[1] == (
        Grant(ADMIN),
        Grant("todo:read", CredentialKind.PASSWORD),
        Grant(role="editor"),
    )
    assert apply(installation, **members) == []
    assert apply(installation, grants=[{"account": "admin", "scopes": ["todo:read"]}]) == [
        ("change", "grants", "admin")
    ]
    assert Grant("todo:read") in installation.grants.of("admin")[1]


def test_grants_by_themselves_for_an_account_of_the_same_file(installation: Installation) -> None:
    apply(
        installation,
        services=[SERVICE],
        accounts=[{"username": "alice"}],
        grants=[{"account": "Alice", "scopes": ["todo:read"]}],
    )
    assert installation.grants.of("alice")[1] == (Grant("todo:read"),)


def test_pruning_takes_only_the_grants_that_the_file_gave(installation: Installation) -> None:
    installation.grants.create_account(OPERATOR, [], username="bob")
    apply(installation, services=[SERVICE], roles=[ROLE])
    installation.grants.change(OPERATOR, "admin", add=[Grant("todo:read")])
    mine = {"owner": "ops", "prune": True}
    given = {"scopes": ["todo:read", "todo:write"], "roles": ["editor"]}
    apply(installation, **mine, grants=[{"account": "admin", **given}, {"account": "bob", **given}])
    assert apply(installation, **mine, grants=[{"account": "admin", "roles": ["editor"]}]) == [
        ("change", "grants", "admin"),
        ("change", "grants", "bob"),
    ]
    # todo:read was the admin's before, and the file had not made it.
    assert installation.grants.of("admin")[1] == (
        Grant(ADMIN),
        Grant("todo:read"),
        Grant(role="editor"),
    )
    assert installation.grants.of("bob")[1] == ()


def test_an_account_keeps_what_another_file_gave_it(installation: Installation) -> None:
    apply(installation, owner="people", **WHOLE)
    theirs = {"owner": "todo-team", "grants": [{"account": "alice", "scopes": ["todo:write"]}]}
    apply(installation, **theirs)
    assert apply(installation, owner="people", **WHOLE) == []
    assert installation.grants.of("alice")[1] == (Grant("todo:write"), Grant(role="editor"))
    claimed = {**ACCOUNT, "grants": {"scopes": [{"name": "todo:write", "with": "password"}]}}
    assert refusal(installation, owner="people", accounts=[claimed]) == {
        "accounts.0.grants": "todo:write was given by todo-team's file"
    }
    installation.manifests.apply(
        OPERATOR, manifest(owner="people", accounts=[claimed]), take_over=True
    )
    assert installation.grants.of("alice")[1] == (Grant("todo:write", CredentialKind.PASSWORD),)
    assert apply(installation, owner="todo-team", prune=True) == []


# --- The file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\na: 2\n", "f.yaml:2: a: is given twice"),
        ("a:\n  - b: 1\n    c: 2\n    b: 3\n", "f.yaml:4: a.0.b: is given twice"),
        ("a: &x 1\nb: *x\n", "f.yaml:2: b: must not be an alias"),
        ("a: &x [*x]\n", "must not be an alias"),
        ("a: !!python/object:os.system x\n", "f.yaml:1: a: must not have a tag"),
        ("a: !!int x\n", "f.yaml:1: a: is not a value of its tag"),
        ("1: a\n", "f.yaml:1: has a name that is not text"),
        ("a: [\n", "f.yaml:2: "),
        ("a: 1\n---\nb: 2\n", "f.yaml:2: "),
        ("a: \0\n", "f.yaml: is not YAML"),
        ("\xff".encode("latin-1"), "f.yaml: must be UTF-8"),
        ("[" * 100_000, "f.yaml: is nested too deeply"),
    ],
)
def test_a_document_that_cannot_be_meant_is_refused(text: str | bytes, fault: str) -> None:
    content = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(Invalid) as refused:
        documents.parse(content, name="f.yaml")
    assert fault in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"a": 1, "a": 2}'),
        ("a.json", "{"),
        ("a.json", "[" * 100_000),
        ("a.json", f'{{"a": {"9" * 5_000}}}'),
        ("a.json", '{"a": NaN}'),
        ("a.toml", "a = 1\na = 2\n"),
        ("a.toml", "a"),
        ("a.toml", "a = " + "[" * 100_000),
        ("a.toml", f"a = {'9' * 5_000}"),
    ],
)
def test_so_it_is_in_json_and_toml(name: str, text: str) -> None:
    with pytest.raises(Invalid, match=re.escape(name)):
        documents.parse(text.encode(), name=name)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-012", -12),
        ("1.5", 1.5),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("0x10", "0x10"),
        ("2040-01-31T12:00:00Z", "2040-01-31T12:00:00Z"),
        ("2040-01-31", "2040-01-31"),
        ("'12'", "12"),
        ("<<", "<<"),
    ],
)
def test_plain_words_mean_what_they_do_in_yaml_1_2(word: str, value: object) -> None:
    read = documents.parse(f"a: {word}\n".encode(), name="-").value
    assert read == {"a": value}
    assert type(read["a"]) is type(value)


def test_json_and_toml_say_the_same() -> None:
    told = {
        "owner": "ops",
        "accounts": [{"username": "a", "expires_at": "2040-01-31T12:00:00+00:00"}],
    }
    toml = b'owner = "ops"\n[[accounts]]\nusername = "a"\nexpires_at = 2040-01-31T12:00:00Z\n'
    yaml = b'owner: ops\naccounts: [{username: a, expires_at: "2040-01-31T12:00:00+00:00"}]\n'
    assert documents.parse(json.dumps(told).encode(), name="a.json").value == told
    assert documents.parse(toml, name="a.toml").value == told
    assert documents.parse(yaml, name="a.yaml").value == told


# --- The command ----------------------------------------------------------------------------------


@pytest.fixture
def operator(prepared_url: str, tmp_path: Path) -> LiveServer:
    """Commands on a database of the test's own; nothing serves it."""
    return LiveServer(prepared_url, tmp_path)


def example() -> str:
    (found,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return str(found)


def test_the_page_s_example_works_as_the_page_says(operator: LiveServer) -> None:
    (operator.folder / "state.yaml").write_text(example())
    planned = operator.run("apply", "--plan", "state.yaml")
    assert planned.returncode == 3, planned.stderr
    assert planned.stdout.endswith("6 to create, 1 to change.\n")
    result = operator.run("apply", "state.yaml")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("6 created, 1 changed.\n")
    again = operator.run("apply", "--plan", "state.yaml")
    assert (again.returncode, again.stdout) == (0, "Nothing to do.\n")
    assert (operator.run("apply", "state.yaml").stdout) == "Nothing to do.\n"
    granted = json.loads(operator.run("grant", "list", "alice", "--json").stdout)
    assert granted == {
        "scopes": [{"name": "todo:share", "with": "password", "until": "2040-01-31T12:00:00Z"}],
        "roles": ["editor"],
    }
    assert operator.run("audit", "verify").returncode == 0


def test_the_page_s_example_shows_every_field() -> None:
    shown = documents.parse(example().encode(), name="-").value
    service = set().union(*shown["services"])
    assert service == {"name", *manifest_fields("services")}
    assert set().union(*shown["roles"]) == {"name", *manifest_fields("roles")}
    # enabled is shown by the service.
    assert set().union(*shown["accounts"], {"enabled"}) == {
        "username",
        *manifest_fields("accounts"),
    }


def manifest_fields(member: str) -> set[str]:
    listed = ManifestSchema().fields[member]
    assert isinstance(listed, fields.List)
    assert isinstance(listed.inner, fields.Nested)
    shape = listed.inner.schema
    return set(shape.fields) - {"password", "api_keys"}


def test_a_plan_for_programs(operator: LiveServer) -> None:
    state = json.dumps({"owner": "ops", "prune": True, **WHOLE})
    planned = operator.run("apply", "--plan", "--json", "-", text=state)
    assert planned.returncode == 3
    changes = json.loads(planned.stdout)["changes"]
    assert [(each["action"], each["kind"], each["name"]) for each in changes] == [
        ("create", "service", "todo"),
        ("create", "role", "editor"),
        ("create", "account", "alice"),
    ]
    result = operator.run("apply", "--json", "-", text=state)
    assert (result.returncode, json.loads(result.stdout)["changes"]) == (0, changes)
    nothing = operator.run("apply", "--plan", "--json", "-", text=state)
    assert (nothing.returncode, json.loads(nothing.stdout)) == (0, {"changes": []})
    pruned = operator.run("apply", "-", text="owner: ops\nprune: true\n")
    assert pruned.stdout == "- service todo\n- role editor\n- account alice\n3 deleted.\n"


def test_faults_are_told_with_file_and_line(operator: LiveServer) -> None:
    (operator.folder / "state.yaml").write_text(
        "accounts:\n"
        "  - username: alice\n"
        "    password: a secret in a file\n"
        "  - username: bob\n"
        "    grants:\n"
        "      scopes:\n"
        "        - name: todo:read\n"
        "          with: luck\n"
    )
    for options in ([], ["--plan"]):
        refused = operator.run("apply", *options, "state.yaml")
        assert refused.returncode == 1
        assert refused.stdout == ""
        first, second = refused.stderr.splitlines()
        assert first.startswith("keyosk: state.yaml:3: accounts.0.password: Is not allowed")
        assert second.startswith("keyosk: state.yaml:8: accounts.1.grants.scopes.0.with: ")
        assert "a secret" not in refused.stderr


@pytest.mark.parametrize("text", ["", "- 1\n", "hello\n", "null\n"])
def test_a_file_without_a_manifest_is_refused(operator: LiveServer, text: str) -> None:
    refused = operator.run("apply", "-", text=text)
    assert refused.returncode == 1
    assert "standard input: must have members" in refused.stderr


def test_a_file_that_is_not_there_is_a_wrong_use(operator: LiveServer) -> None:
    assert operator.run("apply", "missing.yaml").returncode == 2
