"""Explain in the console: why a token lacks a scope, and a button that mends it."""

import pytest

from live import Client, LiveServer
from pages import Browser, Page, logged_in
from people import Person, make_key, make_person, make_service, ok

pytestmark = pytest.mark.every_database


def explain(browser: Browser, person: Person, **query: str) -> Page:
    return browser.get("/console/explain", params={"account": person.username, **query})


def mend(browser: Browser, page: Page, ending: str) -> Page:
    """Send the form of the button, and confirm what it asks."""
    form = page.form(ending)
    return browser.act(form.action, **form.fields)


def test_a_token_is_explained_with_claims_and_size(admin: Client, root: Browser) -> None:
    todo = make_service(admin)
    alice = make_person(admin, f"{todo}:read")
    key, _ = make_key(admin, alice, name="ci")
    page = explain(root, alice, audience=todo)
    assert "A token would be issued, of" in page.text
    assert f'"aud": "{todo}"' in page.text
    assert [given["value"] for tag, given in page.tags if tag == "option"] == ["", key, "workload"]
    page = explain(root, alice, audience=todo, api_key=key)
    assert f'"key_id": "{key}"' in page.text
    assert "A token would be issued" in explain(root, alice, api_key="workload").text


def test_a_key_that_is_limited_is_allowed_the_scope(admin: Client, root: Browser) -> None:
    todo = make_service(admin)
    alice = make_person(admin, f"{todo}:read", f"{todo}:write")
    key, secret = make_key(admin, alice, scopes=[f"{todo}:read"])
    page = explain(root, alice, api_key=key, scope=f"{todo}:write")
    assert "The API key is limited to other scopes." in page.text
    page = mend(root, page, "/allow")
    assert page.status == 200, page.text
    token = ok(alice.login(secret).post("/auth/token"))
    assert token["scope"].split() == [f"{todo}:read", f"{todo}:write"]
    full, _ = make_key(admin, alice)
    root.act(f"/console/accounts/{alice.id}/api-keys/{full}/allow", scope=f"{todo}:read")
    assert ok(admin.get(f"{alice.path}/api-keys/{full}"))["scopes"] is None


def test_what_stops_the_whole_login_is_mended(admin: Client, root: Browser) -> None:
    alice = make_person(admin)
    key, _ = make_key(admin, alice)
    ok(admin.patch(f"{alice.path}/api-keys/{key}", json={"enabled": False}))
    page = explain(root, alice, api_key=key)
    assert "The API key is disabled." in page.text
    mend(root, page, f"{key}/enable")
    assert ok(admin.get(f"{alice.path}/api-keys/{key}"))["enabled"] is True
    ok(admin.patch(alice.path, json={"enabled": False}))
    page = explain(root, alice)
    assert "The account is disabled." in page.text
    mend(root, page, "/enable")
    assert ok(admin.get(alice.path))["enabled"] is True


def test_a_scope_that_must_be_asked_for_is_asked_for(admin: Client, root: Browser) -> None:
    todo, other = make_service(admin), make_service(admin)
    alice = make_person(admin, f"{todo}:read", f"{other}:read")
    ok(admin.patch(f"/services/{other}", json={"on_request_only": True}))
    page = explain(root, alice)
    (place,) = [
        given["href"] or ""
        for tag, given in page.tags
        if tag == "a" and f"scope={other}%3Aread" in (given.get("href") or "")
    ]
    assert f'"aud": "{other}"' in root.get(place).text


@pytest.mark.attack
def test_a_button_gives_nobody_more_than_the_api(server: LiveServer, admin: Client) -> None:
    todo = make_service(admin)
    alice = make_person(admin, f"{todo}:read")
    key, _ = make_key(admin, alice, scopes=[])
    browser = logged_in(server, make_person(admin, "keyosk:accounts:read").username)
    page = explain(browser, alice, api_key=key, scope=f"{todo}:read")
    assert not [form for form in page.forms if "/api-keys/" in form.action]
    for act in ("allow", "enable"):
        path = f"/console/accounts/{alice.id}/api-keys/{key}/{act}"
        assert browser.post(path, {"scope": f"{todo}:read", "confirm": "yes"}).status_code == 403
    assert ok(admin.get(f"{alice.path}/api-keys/{key}"))["scopes"] == []
