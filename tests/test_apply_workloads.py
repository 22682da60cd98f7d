"""keyosk apply: issuers and their rules, all of it or nothing."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from installed import rows_of
from keyosk.errors import Invalid
from keyosk.installation import Installation
from keyosk.model import OPERATOR
from live import Client, LiveServer, unique
from people import assert_refused, make_key, make_person, ok
from test_apply import actions, apply, manifest, manifest_fields, plan

pytestmark = pytest.mark.every_database

ISSUER: Final = {
    "name": "ci",
    "preset": "github",
    "issuer": "https://ci.example.com",
    "audience": "https://keyosk.example.com",
}
RULE: Final = {
    "issuer": "ci",
    "name": "deploy",
    "claims": {"repository_id": "842913401", "ref": ["refs/heads/main", "refs/tags/*"]},
    "account": "deployer",
    "scopes": ["todo:write"],
}
WHOLE: Final = {
    "services": [{"name": "todo", "scopes": ["todo:write"], "accepts": "any"}],
    "accounts": [{"username": "deployer", "kind": "machine", "grants": {"scopes": ["todo:write"]}}],
    "issuers": [ISSUER],
    "rules": [RULE],
}


def refusal(installation: Installation, **members: Any) -> dict[str, str]:
    before = rows_of(installation, "SELECT id, version FROM workload_rule")
    with pytest.raises(Invalid) as planned:
        installation.manifests.plan(OPERATOR, manifest(**members))
    with pytest.raises(Invalid) as applied:
        installation.manifests.apply(OPERATOR, manifest(**members))
    assert planned.value.faults == applied.value.faults
    assert rows_of(installation, "SELECT id, version FROM workload_rule") == before
    return {fault.field: fault.message for fault in applied.value.faults}


def changed(installation: Installation, rule: dict[str, Any], **issuer: Any) -> list[Any]:
    """What is done where the issuer and the rule become so."""
    return apply(installation, issuers=[{**ISSUER, **issuer}], rules=[{**RULE, **rule}])


def test_everything_is_made_and_a_second_run_finds_nothing(installation: Installation) -> None:
    planned = plan(installation, **WHOLE)
    assert planned == [
        ("create", "service", "todo"),
        ("create", "account", "deployer"),
        ("create", "issuer", "ci"),
        ("create", "rule", "ci/deploy"),
    ]
    assert apply(installation, **WHOLE) == planned
    issuer = installation.issuers.get("ci")
    assert (issuer.preset, issuer.required_claims) == ("github", ("repository_id",))
    rule = installation.workload_rules.get("ci", "deploy")
    assert rule.claims["ref"] == ("refs/heads/main", "refs/tags/*")
    assert (rule.account, rule.scopes) == ("deployer", ("todo:write",))
    known = actions(installation)
    assert plan(installation, **WHOLE) == apply(installation, **WHOLE) == []
    assert actions(installation) == known


def test_a_field_is_set_and_an_absent_one_stays(installation: Installation) -> None:
    apply(installation, **WHOLE)
    installation.workload_rules.change(OPERATOR, "ci", "deploy", {"enabled": False})
    claims = {"repository_id": "1", "environment": True}
    assert changed(installation, {"claims": claims, "account": "Deployer"}) == [
        ("change", "rule", "ci/deploy")
    ]
    rule = installation.workload_rules.get("ci", "deploy")
    assert rule.claims == {"repository_id": ("1",), "environment": (True,)}
    assert not rule.enabled
    other = {"repository_id": "1", "environment": 1}  # to Python the same as before
    assert changed(installation, {"claims": other, "scopes": None, "enabled": None})
    rule = installation.workload_rules.get("ci", "deploy")
    assert (rule.claims["environment"], rule.scopes, rule.enabled) == ((1,), None, True)
    assert changed(installation, {"claims": other, "scopes": None}, max_lifetime=60) == [
        ("change", "issuer", "ci")
    ]


def test_what_rules_must_be_changes_together_with_the_rules(installation: Installation) -> None:
    apply(installation, **WHOLE)
    exact = {"repository_id": "1", "ref": "refs/heads/main", "environment": "prod"}
    more = {"required_claims": ["repository_id", "environment"], "prefix_claims": []}
    assert changed(installation, {"claims": exact}, **more) == [
        ("change", "issuer", "ci"),
        ("change", "rule", "ci/deploy"),
    ]
    issuer = installation.issuers.get("ci")
    assert issuer.required_claims == ("repository_id", "environment")
    assert issuer.prefix_claims == ()
    fewer = {"required_claims": ["repository_id"], "prefix_claims": ["environment"]}
    starred = {"repository_id": "1", "environment": "prod-*"}
    assert len(changed(installation, {"claims": starred}, **fewer)) == 2
    assert changed(installation, {"claims": starred}, **fewer) == []
    faults = refusal(installation, issuers=[{**ISSUER, "prefix_claims": []}])
    assert "has a * in environment" in faults["issuers.0.prefix_claims"]


def test_faults_are_told_by_their_paths(installation: Installation) -> None:
    apply(installation, **WHOLE)
    faults = refusal(
        installation,
        issuers=[{**ISSUER, "preset": "gitlab"}],
        rules=[{**RULE, "name": "other"}],
    )
    assert faults == {
        "issuers.0.preset": "cannot be changed: delete the issuer, or leave it out",
    }
    faults = refusal(
        installation,
        issuers=[{**ISSUER, "name": "more", "issuer": "ftp://x", "audience": "x"}],
        rules=[
            {**RULE, "claims": {"ref": "x"}},
            {**RULE, "name": "person", "account": "admin"},
            {**RULE, "name": "nobody", "account": "nobody"},
            {**RULE, "name": "lost", "issuer": "nothing"},
        ],
    )
    assert set(faults) == {
        "issuers.0.issuer",
        "rules.0.claims",
        "rules.1.account",
        "rules.2.account",
        "rules.3",
    }
    with pytest.raises(Invalid) as unknown:
        manifest(issuers=[{**ISSUER, "secret": "x"}], rules=[{**RULE, "claim": {}}])
    assert {fault.field for fault in unknown.value.faults} == {
        "issuers.0.secret",
        "rules.0.claim",
    }


def test_contradictions_are_refused(installation: Installation) -> None:
    faults = refusal(installation, issuers=[ISSUER, ISSUER], rules=[RULE, RULE])
    assert faults == {"issuers.1.name": "is given twice", "rules.1.name": "is given twice"}
    apply(installation, **WHOLE)
    faults = refusal(installation, rules=[{**RULE, "issuer": installation.issuers.get("ci").id}])
    assert faults == {"rules.0.issuer": "must be the name of the issuer"}


def test_pruning_deletes_what_an_earlier_file_made_and_no_more(installation: Installation) -> None:
    owned = {"owner": "ops", "prune": True}
    apply(installation, **WHOLE, **owned)
    installation.workload_rules.create(
        OPERATOR, "ci", name="by-hand", claims={"repository_id": ("2",)}, account="deployer"
    )
    rest = {"services": WHOLE["services"], "accounts": WHOLE["accounts"], **owned}
    assert "rules by-hand" in refusal(installation, **rest)["prune"]
    assert apply(installation, **rest, issuers=[ISSUER]) == [("delete", "rule", "ci/deploy")]
    installation.workload_rules.remove(OPERATOR, "ci", "by-hand")
    assert apply(installation, **rest) == [("delete", "issuer", "ci")]
    assert plan(installation, **rest) == []


def test_what_was_deleted_and_made_again_by_hand_is_not_deleted(installation: Installation) -> None:
    owned = {"owner": "ops", "prune": True}
    apply(installation, **WHOLE, **owned)
    installation.issuers.remove(OPERATOR, "ci", force=True)
    installation.issuers.create(OPERATOR, name="ci", issuer="https://ci.example.com")
    rest = {"services": WHOLE["services"], "accounts": WHOLE["accounts"], **owned}
    assert apply(installation, **rest) == []
    assert installation.issuers.get("ci").preset is None
    assert rows_of(installation, "SELECT count(*) FROM declared")[0][0] == 2


def test_an_issuer_can_be_renamed(installation: Installation) -> None:
    owned = {"owner": "ops", "prune": True}
    apply(installation, **WHOLE, **owned)
    renamed = {
        **WHOLE,
        "issuers": [{**ISSUER, "name": "github"}],
        "rules": [{**RULE, "issuer": "github"}],
    }
    assert sorted(apply(installation, **renamed, **owned)) == [
        ("create", "issuer", "github"),
        ("create", "rule", "github/deploy"),
        ("delete", "issuer", "ci"),
        ("delete", "rule", "ci/deploy"),
    ]
    assert plan(installation, **renamed, **owned) == []


@pytest.mark.parametrize("owner", ["other", None])
def test_what_one_file_made_no_other_names(installation: Installation, owner: str | None) -> None:
    apply(installation, **WHOLE, owner="ops")
    members = {"issuers": [ISSUER], "rules": [RULE]} | ({"owner": owner} if owner else {})
    assert refusal(installation, **members) == {
        "issuers.0": "ci was made by ops's file; take_over moves it to this one",
        "rules.0": "ci/deploy was made by ops's file; take_over moves it to this one",
    }


# --- Over HTTP ------------------------------------------------------------------------------------


@pytest.fixture
def made(admin: Client) -> dict[str, Any]:
    """A manifest of names that no other test uses, which was applied."""
    name, service, account = unique("ci"), unique("todo"), unique("deployer")
    scope = f"{service}:write"
    manifest = {
        "services": [{"name": service, "scopes": [scope], "accepts": "any"}],
        "accounts": [{"username": account, "kind": "machine", "grants": {"scopes": [scope]}}],
        "issuers": [{**ISSUER, "name": name, "issuer": f"https://{name}.example.com"}],
        "rules": [{**RULE, "issuer": name, "account": account, "scopes": [scope]}],
    }
    assert len(ok(admin.post("/apply", json=manifest))["changes"]) == 4
    return manifest


def test_a_dry_run_tells_what_changes(admin: Client, made: dict[str, Any]) -> None:
    assert ok(admin.post("/apply", json=made)) == {"changes": []}
    [rule] = made["rules"]
    changes = ok(
        admin.post(
            "/apply?dry_run=true",
            json={"rules": [{**rule, "claims": {"repository_id": "1"}, "expires_at": None}]},
        )
    )["changes"]
    assert changes == [
        {
            "action": "change",
            "kind": "rule",
            "name": f"{rule['issuer']}/deploy",
            "before": {"claims": rule["claims"]},
            "after": {"claims": {"repository_id": "1"}},
        }
    ]
    assert ok(admin.get(f"/issuers/{rule['issuer']}/rules/deploy"))["claims"] == rule["claims"]


@pytest.mark.attack
def test_nobody_gets_an_account_that_holds_more(admin: Client, made: dict[str, Any]) -> None:
    person = make_person(admin, "keyosk:services:write", "keyosk:services:read")
    [issuer], [rule] = made["issuers"], made["rules"]
    for members in (
        {"rules": [{**rule, "name": "mine"}]},
        {"rules": [{**rule, "claims": {"repository_id": "1"}}]},
        {"rules": [{**rule, "enabled": False}]},
        {"issuers": [{**issuer, "algorithms": ["ES256"]}]},
    ):
        for query in ("", "?dry_run=true"):
            response = person.bearer().post(f"/apply{query}", json=members)
            assert_refused(response, "refused_by_rule")
    reader = make_person(admin, "keyosk:services:read", "keyosk:accounts:write")
    for members in ({"rules": [rule]}, {"issuers": [issuer]}):
        response = reader.bearer().post("/apply?dry_run=true", json=members)
        assert_refused(response, "insufficient_scope")


@pytest.mark.attack
def test_an_api_key_trusts_no_issuer_by_a_manifest(admin: Client, made: dict[str, Any]) -> None:
    person = make_person(admin, "keyosk:admin")
    _, secret = make_key(admin, person)
    key = person.login(secret)
    for members in (
        {"issuers": [{**ISSUER, "name": unique("x"), "issuer": "https://x.example"}]},
        {"rules": [{**made["rules"][0], "name": "mine"}]},
    ):
        assert_refused(key.post("/apply", json=members), "refused_by_rule")


# --- Commands -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_exported_changes_nothing_as_a_manifest(prepared_url: str, tmp_path: Path) -> None:
    operator = LiveServer(prepared_url, tmp_path)

    def run(*arguments: str, text: str = "") -> str:
        result = operator.run(*arguments, text=text)
        assert result.returncode == 0, result.stderr
        return result.stdout

    keys = {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "A" * 43, "kid": "1e3"}]}
    given = {"name": "cluster", "issuer": "urn:cluster", "keys": keys, "enabled": False}
    rule = {**RULE, "issuer": "cluster", "claims": {"build": "1e3", "main": True, "n": 7}}
    whole = {**WHOLE, "issuers": [ISSUER, given], "rules": [RULE, rule, {**RULE, "name": "a"}]}
    run("apply", "-", text=json.dumps(whole))
    exported = run("issuer", "export")
    shown = json.loads(exported)
    assert [each["name"] for each in shown["issuers"]] == ["ci", "cluster"]
    assert set(shown["issuers"][0]) == {*manifest_fields("issuers")} | {"name"}
    assert {*shown["rules"][0]} == {*manifest_fields("rules")}
    assert run("apply", "--plan", "-", text=exported) == "Nothing to do.\n"

    for name in ("ci", "cluster"):
        run("issuer", "delete", name, "--force")
    assert run("apply", "-", text=exported).endswith("5 created.\n")
    assert run("issuer", "export") == exported
    one = json.loads(run("issuer", "export", "cluster"))
    assert [each["issuer"] for each in one["rules"]] == ["cluster"]
