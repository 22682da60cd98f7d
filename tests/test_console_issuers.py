"""The console's pages for issuers and rules: what they show, do, and keep to themselves."""

from typing import Any

import pytest

from live import Client, LiveServer, unique
from pages import Browser, Page, logged_in
from people import PASSWORD, make_person, ok
from platforms import AUDIENCE, Platform
from shops import MAIN, Shop
from tables import table

pytestmark = pytest.mark.every_database


def test_an_issuer_and_a_rule_are_made_changed_and_deleted(
    server: LiveServer, admin: Client, root: Browser, ci: Platform
) -> None:
    shop = Shop(server, admin, ci)
    ok(admin.delete(f"/issuers/{shop.issuer}", params={"force": "true"}), 204)
    name = unique("ci")
    fields = root.get("/console/issuers").form("/console/issuers").fields
    fields |= {"name": name, "preset": "github", "issuer": ci.issuer, "audience": AUDIENCE}
    page = Page(root.post("/console/issuers", fields))
    assert "Whoever has its signing keys" in page.text
    page = root.act("/console/issuers", **fields | {"allow_private_chosen": "yes"})
    assert ("Created." in page.text, page.h1) == (True, f"Issuer {name}")
    for word in (ci.issuer, AUDIENCE, "RS256", "3600 s", "repository_id", "No rules", "comes back"):
        assert word in page.text
    path = f"/console/issuers/{name}"
    fields = page.form("/rules").fields
    fields |= {
        "name": "main",
        "account": shop.account,
        "claims": "repository_id=842913401\r\nref=refs/heads/main\r\n\r\nref=refs/tags/*",
        "scopes": shop.read,
    }
    page = Page(root.post(f"{path}/rules", fields))
    assert f"log in as {shop.account}" in page.text
    page = root.act(f"{path}/rules", **fields)
    assert page.h1 == "Rule main"
    assert "ref=refs/heads/main ref=refs/tags/*" in page.text
    assert "no token ever fitted" in page.text
    shop.issuer = name
    rule = ok(admin.get(f"/issuers/{name}/rules/main"))
    assert rule["claims"] == {**MAIN, "ref": ["refs/heads/main", "refs/tags/*"]}
    assert (rule["scopes"], rule["once"], rule["expires_at"]) == ([shop.read], False, None)
    assert ok(shop.present(ci.token()))["scope"] == shop.read
    page = root.get(path)
    assert "no token ever fitted" not in page.text
    assert "refs/heads/main or refs/tags/*" in page.text

    fields = root.get(f"{path}/rules/main").form("/rules/main").fields
    written = "repository_id=842913401\nprotected:=true\nrun:=7"
    page = root.act(f"{path}/rules/main", **fields | {"claims": written, "once_chosen": "yes"})
    assert "Saved. No service accepts a token from before after" in page.text
    rule = ok(admin.get(f"/issuers/{name}/rules/main"))
    assert rule["claims"] == {"repository_id": "842913401", "protected": True, "run": 7}
    assert (rule["scopes"], rule["once"]) == ([shop.read], True)
    response = root.post(f"{path}/rules/main", {**fields, "claims": written, "confirm": "yes"})
    assert response.status_code == 412  # as the page was before
    for enabled, word in (("false", "Disabled."), ("true", "Enabled.")):
        assert word in root.act(f"{path}/rules/main/switch", enabled=enabled).text
        assert word in root.act(f"{path}/switch", enabled=enabled).text
    fields = root.get(path).form(path).fields
    page = root.act(path, **fields | {"max_lifetime": "600", "audience": "another"})
    assert "600 s" in page.text
    changed = ok(admin.get(f"/issuers/{name}"))
    assert (changed["max_lifetime"], changed["audience"]) == (600, "another")
    assert (changed["algorithms"], changed["allow_private"]) == (["RS256"], True)
    assert root.act(f"{path}/rules/main/delete").h1 == f"Issuer {name}"
    root.act(f"{path}/rules", name="b", account=shop.account, claims="repository_id=1")
    assert root.act(f"{path}/delete").h1 == "Issuers"
    assert admin.get(f"/issuers/{name}").status_code == 404


def test_a_rule_limited_to_no_scope_does_not_become_unlimited(shop: Shop, root: Browser) -> None:
    ok(shop.change_rule("main", scopes=[]))
    path = f"/console/issuers/{shop.issuer}/rules/main"
    fields = root.get(path).form("/rules/main").fields
    fields["claims"] = "repository_id=1"
    assert "Saved." in root.act(path, **fields).text
    assert ok(shop.admin.get(f"/issuers/{shop.issuer}/rules/main"))["scopes"] == []


def test_a_token_is_tried_without_being_kept(shop: Shop, root: Browser) -> None:
    shop.rule("tags", {"repository_id": "842913401", "ref": "refs/tags/*"})
    path = f"/console/issuers/{shop.issuer}/test"
    token = shop.ci.token()
    response = root.post(path, {"assertion": f" {token}\n"})
    page = Page(response)
    assert f"It would log in as {shop.account} by the rule main." in page.text
    assert 'ref is "refs/heads/main" , not "refs/tags/*"' in page.text
    assert '"repository": "acme/shop"' in page.text
    for part in token.split(".")[1:]:
        assert part not in response.text
    page = Page(root.post(path, {"assertion": shop.ci.token(ref="refs/heads/x")}))
    assert "It would not log in: The token is valid, but no rule lets it log in." in page.text
    for bad in (token[:-4] + "AAAA", "a.b.c", "", "x" * 20_000, shop.ci.token(aud="other")):
        page = Page(root.post(path, {"assertion": bad}))
        assert ("It would not log in" in page.text, page.status) == (True, 200), bad[:20]
    assert ok(shop.admin.get(f"/issuers/{shop.issuer}/rules/main"))["last_used_at"] is None
    rows = ok(shop.admin.get("/audit", params={"limit": 200, "sort": "-sequence"}))["items"]
    assert token not in str(rows)
    assert token.split(".")[2] not in shop.server.log.read_text()


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"name": "With Spaces"}, "name"),
        ({"keys": "{"}, "must be JSON"),
        ({"keys": '{"keys": []}'}, "JWK set"),
        ({"issuer": "ftp://ci.example"}, "https URL"),
        ({"issuer": ""}, "is missing"),
    ],
)
def test_what_makes_no_sense_is_said(root: Browser, fields: dict[str, str], word: str) -> None:
    usual = {"name": unique("ci"), "issuer": "https://ci.example", "once": "a" * 9}
    page = root.act("/console/issuers", **usual | fields)
    assert (page.status, word in page.text) == (422, True), page.text


@table("token", ["", "\0", "x", "a.b.c", "e" * 40_000])
def test_what_is_no_token_is_said(shop: Shop, root: Browser, token: str) -> None:
    response = root.post(f"/console/issuers/{shop.issuer}/test", {"assertion": token})
    assert response.status_code == 200
    assert "It would not log in" in Page(response).text


def test_a_reader_sees_issuers_tests_tokens(server: LiveServer, admin: Client, shop: Shop) -> None:
    reader = logged_in(server, make_person(admin, "keyosk:services:read").username)
    path = f"/console/issuers/{shop.issuer}"
    page = reader.get(path)
    assert [form.action for form in page.forms][1:] == [f"{path}/test"]
    assert (
        "would log in as" in Page(reader.post(f"{path}/test", {"assertion": shop.ci.token()})).text
    )
    confirmed: dict[str, Any] = {"confirm": "yes", "password_again": PASSWORD}
    for place, fields in {
        path: {"max_lifetime": "60"},
        f"{path}/switch": {"enabled": "false"},
        f"{path}/delete": {},
        f"{path}/rules": {"name": "x", "account": shop.account, "claims": "repository_id=1"},
        f"{path}/rules/main": {"claims": "repository_id=1"},
        f"{path}/rules/main/switch": {"enabled": "false"},
        f"{path}/rules/main/delete": {},
    }.items():
        assert reader.post(place, fields | confirmed).status_code == 403, place
    assert shop.present(shop.ci.token()).status_code == 200


def test_nobody_hands_out_an_account_here_that_holds_more_than_they_do(
    server: LiveServer, admin: Client, shop: Shop
) -> None:
    weak = make_person(admin, "keyosk:services:read", "keyosk:services:write")
    browser = logged_in(server, weak.username)
    path = f"/console/issuers/{shop.issuer}/rules"
    fields = {"name": "mine", "account": shop.account, "claims": "repository_id=1"}
    page = browser.act(path, **fields)
    assert (page.status, "rights that you do not hold" in page.text) == (403, True), page.text
