"""Services in the console: exchanges as a picture, the code that protects one, who may what."""

from pathlib import Path

import pytest

from keyosk.cli import verify_service
from keyosk.console import drawing, protection
from live import Client, LiveServer, unique
from pages import Browser, logged_in
from people import make_person, make_role, make_service, ok
from tables import table

pytestmark = pytest.mark.every_database

_GUIDES = Path(__file__).parent.parent / "docs/how-to/services"


@table("guide", protection.GUIDES)
def test_each_line_of_code_stands_in_its_guide(guide: protection.Guide) -> None:
    text = (_GUIDES / guide.file).read_text()
    place = 0
    for line in filter(str.strip, guide.code.splitlines()):
        place = text.find(f"{line}\n", place)
        assert place >= 0, line


def test_a_service_shows_how_it_is_protected(server: LiveServer, admin: Client) -> None:
    service = make_service(admin)
    browser = logged_in(server, make_person(admin, "keyosk:services:read").username)
    text = browser.get(f"/console/services/{service}").text
    issuer = ok(admin.get("/.well-known/oauth-authorization-server"))["issuer"]
    assert f'keyosk = Keyosk("{issuer}", "{service}")' in text
    assert f'@keyosk.require("{service}:read")' in text
    assert f"{issuer}/auth/jwks?service={service}" in text
    assert '"todo"' not in text
    assert "todo:read" not in text.replace(f"{service}:read", "")


def test_the_command_that_attacks_a_service_can_be_pasted(admin: Client, root: Browser) -> None:
    service = make_service(admin)
    page = root.get(f"/console/services/{service}")
    (line,) = [each for each in page.words if each.startswith("keyosk verify-service ")]
    context = verify_service.verify_service.make_context("verify-service", line.split()[2:])
    assert (context.params["service"], context.params["scope"]) == (service, f"{service}:read")


@table(
    ("accepts", "words"),
    [
        ("both", "passwords and API keys"),
        ("api_key", "API keys"),
        (["password", "workload"], "passwords, tokens of workloads"),
        ("any", "passwords, API keys and tokens of workloads"),
    ],
)
def test_a_service_says_which_logins_it_accepts(
    admin: Client, root: Browser, accepts: object, words: str
) -> None:
    text = root.get(f"/console/services/{make_service(admin, accepts=accepts)}").text
    assert f"Accepts {words} Refresh" in text


def test_exchanges_are_a_picture_and_a_text(admin: Client, root: Browser) -> None:
    before, middle, after, other = (make_service(admin) for _ in range(4))
    for service, target in ((before, middle), (middle, after), (other, after)):
        exchanges = [{"service": target, "scopes": [f"{target}:read"]}]
        ok(admin.patch(f"/services/{service}", json={"exchanges": exchanges}))
    items = ok(admin.get("/services", params={"exchanges_for": after, "sort": "name"}))["items"]
    assert [each["name"] for each in items] == sorted((middle, other))
    page = root.get(f"/console/services/{middle}")
    (picture,) = [given for tag, given in page.tags if tag == "svg"]
    assert picture["aria-label"] == (
        f"Tokens of {before} may be exchanged for tokens of {middle}, and its tokens for tokens of "
        f"{after}."
    )
    assert f"Tokens of {before} may be exchanged for tokens of {middle}." in page.text
    assert f"which may gain {after}:read" in page.text
    alone = root.get(f"/console/services/{make_service(admin)}")
    assert "svg" not in {tag for tag, _ in alone.tags}


def test_who_may_what_is_a_table_of_roles_or_accounts(
    server: LiveServer, admin: Client, root: Browser
) -> None:
    service = make_service(admin)
    read, write = f"{service}:read", f"{service}:write"
    role = make_role(admin, write)
    limited = {"name": read, "with": "password", "until": "2100-01-01T00:00:00Z"}
    alice = make_person(admin, limited, roles=(role,))
    bob = make_person(admin)
    assert root.get("/console/matrix").status == 200
    page = root.get("/console/matrix", params={"service": service, "scope": write})
    assert f"Role {read} {write} {role} yes" in page.text
    query = {"service": service, "rows": "accounts", "scope": read}
    page = root.get("/console/matrix", params=query)
    assert f"{alice.username} grant by password until 2100-01-01 {role}" in page.text
    assert bob.username not in page.text
    query = {"service": service, "rows": "accounts", "q": bob.username}
    assert bob.username in root.get("/console/matrix", params=query).text
    reader = logged_in(server, make_person(admin, "keyosk:services:read").username)
    assert reader.get("/console/matrix", params=query).status == 403


def test_a_table_of_many_accounts_and_scopes_has_pages(admin: Client, root: Browser) -> None:
    name = unique("wide")
    scopes = [f"{name}:s{number:02}" for number in range(20)]
    ok(admin.post("/services", json={"name": name, "scopes": scopes}), 201)
    held = {"scopes": [scopes[0]]}
    for _ in range(17):
        ok(admin.post("/accounts", json={"username": unique("many"), "grants": held}), 201)
    query = {"service": name, "rows": "accounts", "scope": scopes[0]}
    page = root.get("/console/matrix", params=query)
    places = [given["href"] or "" for tag, given in page.tags if given.get("rel") == "next"]
    assert sum(tag == "th" and given.get("scope") == "row" for tag, given in page.tags) == 12
    assert (scopes[7] in page.text, scopes[8] in page.text) == (True, False)
    again = root.get(places[0])
    assert sum(tag == "th" and given.get("scope") == "row" for tag, given in again.tags) == 5
    (wider,) = [
        given["href"] or "" for _, given in page.tags if "first=" in (given.get("href") or "")
    ]
    assert scopes[8] in root.get(wider).text


# --- Pictures -------------------------------------------------------------------------------------


def key(state: str, published: str, **more: str | None) -> dict[str, str | None]:
    moments = dict.fromkeys(("active_from", "retired_at", "gone_at"))
    return {"kid": "k" * 43, "state": state, "published_at": published, **moments, **more}


def test_the_lives_of_signing_keys_are_on_one_scale() -> None:
    now = 1_900_000_000  # 2030-03-17T17:46:40Z
    line = drawing.time_line(
        [
            key("retired", "2030-01-01T00:00:00Z", active_from="2030-01-02T00:00:00Z",
                retired_at="2030-03-01T00:00:00Z", gone_at="2030-03-18T00:00:00Z"),
            key("active", "2030-02-28T00:00:00Z", active_from="2030-03-01T00:00:00Z"),
            key("next", "2030-03-17T00:00:00Z", active_from="2030-03-19T00:00:00Z"),
        ],
        now,
    )  # fmt: skip
    assert line is not None
    old, active, coming = line.lives
    assert old.published[0] == 0
    assert old.signing is not None
    assert active.signing is not None
    assert old.signing[0] + old.signing[1] == pytest.approx(active.signing[0], abs=1)
    assert sum(active.published) == 1000
    assert coming.signing is not None
    assert coming.published[0] < line.now < coming.signing[0]
    assert drawing.time_line([], now) is None


def test_fewer_boxes_than_rows_stand_in_their_middle() -> None:
    picture = drawing.exchanges("b" * 40, ["a"], ["c", "d", "e"])
    assert picture is not None
    middle, left, *right = picture.boxes
    assert middle.y == left.y == right[1].y
    assert len(middle.label) == 17
    assert picture.height == 120
    assert drawing.exchanges("a", [], []) is None
