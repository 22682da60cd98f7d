"""What the console does to many accounts at once."""

import pytest

from live import Client, LiveServer
from pages import Browser, Page, logged_in
from people import PASSWORD, Person, can_log_in, make_key, make_person, ok

pytestmark = pytest.mark.every_database

_BULK = "/console/accounts/bulk"


def send(browser: Browser, act: str, *accounts: str, **more: str) -> Page:
    """Send the form of the list with these accounts chosen."""
    fields = [("csrf_token", browser.token()), ("act", act), *more.items()]
    fields += [("account", account) for account in accounts]
    return Page(browser.client.post(_BULK, data=fields))


def rows_of(admin: Client, person: Person, action: str) -> list[tuple[str, str]]:
    query = {"target": f"account/{person.id}", "action": action}
    rows = ok(admin.get("/audit", params=query))["items"]
    return [(row["via"], row["outcome"]) for row in rows]


def test_the_list_offers_acts_on_chosen(server: LiveServer, admin: Client, root: Browser) -> None:
    alice = make_person(admin)
    page = root.get("/console/accounts", params={"q": alice.username})
    chosen = [given for _, given in page.tags if given.get("name") == "account"]
    assert [given["value"] for given in chosen] == [alice.id]
    assert chosen[0]["aria-label"] == f"Choose {alice.username}"
    reader = logged_in(server, make_person(admin, "keyosk:accounts:read").username)
    page = reader.get("/console/accounts", params={"q": alice.username})
    assert not [given for _, given in page.tags if given.get("name") == "account"]
    assert "No account was chosen." in root.act(_BULK, act="disable").text


def test_many_are_disabled_and_enabled(server: LiveServer, admin: Client, root: Browser) -> None:
    people = [make_person(admin) for _ in range(3)]
    page = send(root, "disable", *(each.id for each in people))
    assert (page.h1, "Disable them" in page.text) == ("Disable 3 accounts?", True)
    assert all(each.username in page.text for each in people)
    assert all(ok(admin.get(each.path))["enabled"] for each in people)
    page = send(root, "disable", *(each.id for each in people), confirm="yes")
    assert "Done for 3 of 3 accounts." in page.text
    assert "No service accepts a token of theirs from before after" in page.text
    for each in people:
        assert not can_log_in(server, each.username, PASSWORD)
        assert rows_of(admin, each, "account.change") == [("console", "done")]
    send(root, "enable", *(each.id for each in people), confirm="yes")
    assert all(can_log_in(server, each.username, PASSWORD) for each in people)
    page = send(root, "end-tokens", people[0].id, confirm="yes")
    assert rows_of(admin, people[0], "tokens.revoke") == [("console", "done")]


def test_refusals_are_shown_others_done(server: LiveServer, admin: Client, root: Browser) -> None:
    alice, mighty = make_person(admin), make_person(admin, "keyosk:admin")
    gone = make_person(admin)
    ok(admin.delete(gone.path), 204)
    helper = make_person(admin, "keyosk:accounts:read", "keyosk:accounts:write")
    browser = logged_in(server, helper.username)
    chosen = (mighty.id, gone.id, helper.id, alice.id)
    page = send(browser, "disable", *chosen, confirm="yes")
    assert "3 of 4 accounts were left as they are." in page.text
    assert "Done for 1 of 4 accounts." in page.text
    assert f"{alice.username} done; everywhere after" in page.text
    assert f"{mighty.username} not done : " in page.text.replace(" not done:", " not done :")
    assert "There is no such account." in page.text
    assert ok(admin.get(mighty.path))["enabled"] is True
    assert ok(admin.get(helper.path))["enabled"] is True
    assert not can_log_in(server, alice.username, PASSWORD)


@pytest.mark.attack
def test_it_gives_nobody_more_than_the_api(server: LiveServer, admin: Client) -> None:
    alice = make_person(admin)
    browser = logged_in(server, make_person(admin, "keyosk:accounts:read").username)
    page = send(browser, "disable", alice.id, confirm="yes")
    assert "1 of 1 accounts were left as they are." in page.text
    assert ok(admin.get(alice.path))["enabled"] is True
    assert send(browser, "delete", alice.id, confirm="yes").status == 422


def test_a_name_that_would_be_a_path_means_nothing(
    server: LiveServer, admin: Client, root: Browser
) -> None:
    alice = make_person(admin)
    key, secret = make_key(admin, alice)
    page = send(root, "disable", f"{alice.id}/api-keys/{key}", confirm="yes")
    assert "1 of 1 accounts were left as they are." in page.text
    assert can_log_in(server, alice.username, secret)
