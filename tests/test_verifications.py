"""What verify-service found of a service the last time."""

from typing import Any

import pytest

from keyosk.errors import NotFound
from keyosk.ids import new_id
from keyosk.installation import Installation
from keyosk.model import Verification
from keyosk.storage.verifications import VerificationStore
from live import Client, LiveServer, unique
from pages import logged_in
from people import make_person, make_service, ok
from tables import table

pytestmark = pytest.mark.every_database

_FOUND: dict[str, Any] = {
    "url": "https://todo.example.com/todos",
    "passed": False,
    "verdict": "Failed: 1 bad token was accepted or answered with an error: expired.",
    "failed": ["expired"],
}


def test_the_last_result_stands_in_the_place_of_the_one_before(admin: Client) -> None:
    todo = make_service(admin)
    path = f"/services/{todo}/verification"
    assert admin.get(path).status_code == 404
    ci = make_person(admin, "keyosk:services:write")
    first = ok(ci.login().put(path, json=_FOUND))
    assert {name: first[name] for name in _FOUND} == _FOUND
    assert first["verified_by"] == ci.username
    assert ok(admin.get(path)) == first
    passed = {**_FOUND, "passed": True, "verdict": "Passed.", "failed": []}
    second = ok(admin.put(path, json=passed))
    assert ok(admin.get(path)) == second
    assert (second["passed"], second["failed"], second["verified_by"]) == (True, [], "admin")
    query = {"target": f"service/{todo}", "action": "service.verify"}
    rows = ok(admin.get("/audit", params=query))["items"]
    assert [row["after"]["failed"] for row in rows] == [["expired"], []]
    assert [row["actor_name"] for row in rows] == [ci.username, "admin"]


def test_a_path_may_have_what_would_be_a_login_before_it(admin: Client) -> None:
    verification = {**_FOUND, "url": "https://npm.example.com/@todo/items"}
    assert (
        ok(admin.put("/services/keyosk/verification", json=verification))["url"]
        == verification["url"]
    )


def test_a_deleted_service_takes_its_result_with_it(admin: Client) -> None:
    name = unique("service")
    for _ in range(2):
        ok(admin.post("/services", json={"name": name}), 201)
        assert admin.get(f"/services/{name}/verification").status_code == 404
        ok(admin.put(f"/services/{name}/verification", json=_FOUND))
        ok(admin.delete(f"/services/{name}"), 204)


def test_the_console_shows_it(server: LiveServer, admin: Client) -> None:
    todo = make_service(admin)
    browser = logged_in(server, make_person(admin, "keyosk:services:read").username)
    assert "Nobody has tested it yet" in browser.get(f"/console/services/{todo}").text
    ok(admin.put(f"/services/{todo}/verification", json=_FOUND))
    text = browser.get(f"/console/services/{todo}").text
    assert "Result failed" in text
    assert "by admin, at https://todo.example.com/todos" in text
    assert "Failed expired" in text


@table(
    ("field", "value"),
    [
        *(("url", url) for url in ("todo", "ftp://x/", "http://", "http://a:b@x/", "http://[/")),
        *(("url", f"https://x/{end}") for end in ("?token=1", "#token", "x" * 500)),
        *(("url", f"https://x/{end}") for end in ("a b", "\n", "\u202e", "\x1b[31m", "\\")),
        ("passed", "yes"),
        ("verdict", "x" * 2_001),
        ("failed", ["x"] * 101),
        ("failed", ["x" * 101]),
    ],
)
def test_what_cannot_be_kept_is_refused(admin: Client, field: str, value: Any) -> None:
    response = admin.put("/services/keyosk/verification", json={**_FOUND, field: value})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"].startswith(field)


@pytest.mark.attack
def test_who_may_only_read_services_reports_nothing(admin: Client) -> None:
    todo = make_service(admin)
    reader = make_person(admin, "keyosk:services:read").login()
    assert reader.put(f"/services/{todo}/verification", json=_FOUND).status_code == 403
    assert reader.get(f"/services/{todo}/verification").status_code == 404
    assert make_person(admin).login().get(f"/services/{todo}/verification").status_code == 403


def test_a_service_that_was_deleted_meanwhile_is_not_found(installation: Installation) -> None:
    verification = Verification(
        verified_at=0,
        verified_by="alice",
        url="http://127.0.0.1",
        passed=True,
        verdict="",
        failed=(),
    )
    with pytest.raises(NotFound):
        VerificationStore(installation.database).replace(new_id(), verification)
