"""/accounts: what an admin does with accounts, and what an account does with itself."""

import unicodedata
from base64 import urlsafe_b64decode
from collections.abc import Callable
from typing import Any

import pytest

from live import ADMIN_PASSWORD, Client, LiveServer, at_once, patching, posting, unique
from people import Person, can_log_in, make_account, make_service, ok, problem
from tables import table

PASSWORD = "seven quiet herons wade"
OTHER_PASSWORD = "nine loud magpies quarrel"
FAR = "2090-01-01T00:00:00Z"


def fullwidth(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


# --- Create and read ------------------------------------------------------------------------------


def test_every_field_of_an_account_is_kept(admin: Client) -> None:
    service = make_service(admin, "read", "write")
    fields: dict[str, Any] = {
        "kind": "machine",
        "display_name": "Der Läufer 🏃 \u202bנחום\u202c",
        "enabled": False,
        "claims": {"team": "züri", "levels": [1, 2.5, None, {"deep": True}]},
        "metadata": {"note": "only for admins"},
        "expires_at": FAR,
    }
    account = make_account(
        admin,
        **fields,
        password=PASSWORD,
        grants={"scopes": [f"{service}:read", {"name": f"{service}:write", "with": "password"}]},
    )
    shown = admin.get(f"/accounts/{account['id']}").json()
    assert shown == account
    assert {name: shown[name] for name in fields} == fields
    assert shown["has_password"] is True
    assert admin.get(f"/accounts/{account['id']}/grants").json() == {
        "scopes": [f"{service}:read", {"name": f"{service}:write", "with": "password"}],
        "roles": [],
    }


@table(
    ("fields", "faults"),
    [
        ({"enabled": None}, ["enabled"]),
        ({"password": None}, ["password"]),
        ({"password": "x" * 14}, ["password"]),
        ({"password": "\udfff" * 20}, ["password"]),
        ({"grants": ["todo:read"]}, ["grants"]),
        ({"grants": {"scopes": "a"}}, ["grants.scopes"]),
        ({"grants": {"scopes": [1]}}, ["grants.scopes.0"]),
        ({"grants": {"scopes": ["no:such"]}}, ["scopes"]),
        (
            {"grants": {"scopes": [{"with": "face", "until": 3}]}},
            ["grants.scopes.0.name", "grants.scopes.0.until", "grants.scopes.0.with"],
        ),
        (
            {"display_name": "\x07", "password": "short", "expires_at": "1969-12-31T23:59:59Z"},
            ["display_name", "expires_at", "password"],
        ),
    ],
)
def test_what_only_a_new_account_takes_is_refused_by_field_too(
    admin: Client, fields: dict[str, Any], faults: list[str]
) -> None:
    username = unique("refused")
    response = admin.post("/accounts", json={"username": username, **fields})
    assert response.status_code == 422, response.text
    assert sorted(error["field"] for error in response.json()["errors"]) == faults
    assert admin.get(f"/accounts/{username}").status_code == 404


def test_a_change_takes_neither_password_nor_grants_nor_claims_too_large(admin: Client) -> None:
    account = make_account(admin, claims={"long": "x" * 9_000})
    path = f"/accounts/{account['id']}"
    patches: tuple[dict[str, Any], ...] = (
        {"claims": {"more": "x" * 9_000}},  # too large only together with what is there
        {"password": PASSWORD},
        {"grants": {}},
    )
    for patch in patches:
        problem(admin.patch(path, json=patch), 422, *patch)
    assert admin.get(path).json() == account


def test_a_password_that_is_refused_is_not_repeated_in_the_answer(admin: Client) -> None:
    response = admin.post("/accounts", json={"username": unique("a"), "password": "tooshort-9x"})
    assert "tooshort-9x" not in problem(response, 422, "password")["detail"] + response.text
    response = admin.post("/accounts", json={"username": 1, "password": PASSWORD, "secret": 2})
    assert PASSWORD not in response.text


def test_an_account_is_found_by_its_id_and_by_any_spelling_of_its_username(admin: Client) -> None:
    account = make_account(admin, "renée")
    name = account["username"]
    spellings = [
        account["id"],
        account["id"].upper(),
        name,
        name.upper(),
        name.title(),
        unicodedata.normalize("NFD", name),
        fullwidth(name),
    ]
    assert len(set(spellings)) == len(spellings)
    for spelling in spellings:
        assert admin.get(f"/accounts/{spelling}").json() == account, spelling


# --- Usernames are unique -------------------------------------------------------------------------


@table(
    "spell",
    [
        str,
        str.upper,
        str.title,
        fullwidth,
        lambda name: unicodedata.normalize("NFD", name),
        lambda name: unicodedata.normalize("NFD", fullwidth(name.upper())),
    ],
    ids=["same", "upper", "title", "fullwidth", "NFD", "all at once"],
)
def test_another_spelling_of_a_username_is_the_same_username(admin: Client, spell: Any) -> None:
    taken = make_account(admin, "zoë")["username"]
    body = problem(admin.post("/accounts", json={"username": spell(taken)}), 409, "username")
    assert body["code"] == "conflict"
    other = make_account(admin)
    response = admin.patch(f"/accounts/{other['id']}", json={"username": spell(taken)})
    problem(response, 409, "username")
    assert admin.get(f"/accounts/{other['id']}").json() == other


@pytest.mark.fault
def test_thirty_creates_at_once_of_one_username_in_many_spellings_make_one_account(
    admin: Client,
) -> None:
    name = unique("noël")
    forms: list[Callable[[str], str]] = [
        str,
        str.upper,
        str.title,
        fullwidth,
        lambda text: unicodedata.normalize("NFD", text),
    ]
    bodies = [{"username": forms[number % len(forms)](name)} for number in range(30)]
    responses = at_once(admin, [posting("/accounts", body) for body in bodies])
    created_ids = [response.json()["id"] for response in responses if response.status_code == 201]
    assert sorted(response.status_code for response in responses) == [201] + [409] * 29
    assert admin.get(f"/accounts/{name}").json()["id"] == created_ids[0]


def test_a_renamed_account_is_found_by_its_new_name_only(server: LiveServer, admin: Client) -> None:
    account = make_account(admin, password=PASSWORD)
    new = unique("Renamed")
    response = admin.patch(f"/accounts/{account['username']}", json={"username": new})
    assert response.json()["username"] == new.lower()
    assert admin.get(f"/accounts/{account['username']}").status_code == 404
    assert admin.get(f"/accounts/{new}").json()["id"] == account["id"]
    assert can_log_in(server, new, PASSWORD)
    assert not can_log_in(server, account["username"], PASSWORD)
    # The old name is free, and another spelling of its own is no conflict with itself.
    ok(admin.post("/accounts", json={"username": account["username"]}), 201)
    again = admin.patch(f"/accounts/{account['id']}", json={"username": new.upper()})
    assert (again.status_code, again.json()["username"]) == (200, new.lower())


# --- Merge patch ----------------------------------------------------------------------------------


def test_objects_are_merged_by_member_and_all_else_is_left_alone(admin: Client) -> None:
    account = make_account(
        admin,
        display_name="stays",
        claims={"a": 1, "b": {"c": 2, "d": 3}, "e": [1, 2]},
        metadata={"kept": True},
    )
    patch = {"claims": {"a": None, "b": {"c": None, "new": {"x": None}}, "e": [3]}}
    changed = admin.patch(f"/accounts/{account['id']}", json=patch).json()
    assert changed["claims"] == {"b": {"d": 3, "new": {}}, "e": [3]}
    assert changed | {"claims": {}, "updated_at": ""} == account | {"claims": {}, "updated_at": ""}


@pytest.mark.fault
def test_patches_at_once_of_different_members_all_arrive(admin: Client) -> None:
    path = f"/accounts/{make_account(admin)['id']}"
    asked = [patching(path, {"claims": {f"c{number}": number}}) for number in range(20)]
    assert {response.status_code for response in at_once(admin, asked)} == {200}
    assert admin.get(path).json()["claims"] == {f"c{number}": number for number in range(20)}


# --- Passwords ------------------------------------------------------------------------------------

#: A password and the words of its refusal.
REASONS = [
    ("", "must not be empty"),
    ("x" * 14, "at least 15 characters"),
    ("é" * 1025, "at most 1,024 characters"),
    ("abcdefghijklmnop", "a sequence such as 12345"),
    ("aaaaaaaaaaaaaaaaaaaa", "one repeated character"),
    ("password123456789", "a common password, even with digits"),
    ("P@ssw0rd!!!!!!!!!!", "a common password"),
    ("keyoskkeyoskkeyosk", "the name of the account or of this service"),
    ("a line\nand another one", "control characters"),
    ("kysk_is how a key begins", "must not start with kysk_"),
]


@table(("password", "reason"), REASONS, ids=[reason for _, reason in REASONS])
def test_a_bad_password_is_refused_with_its_reason_wherever_it_is_given(
    admin: Client, password: str, reason: str
) -> None:
    account = make_account(admin)
    for response in (
        admin.put(f"/accounts/{account['id']}/password", json={"password": password}),
        admin.post("/accounts", json={"username": unique("refused"), "password": password}),
    ):
        assert reason in problem(response, 422, "password")["errors"][0]["message"]
    assert admin.get(f"/accounts/{account['id']}").json()["has_password"] is False


def test_the_names_of_the_account_are_no_password(admin: Client) -> None:
    account = make_account(admin, "wilhelmina", display_name="Countess Ludovica")
    for password in (account["username"].title() + "!!", "1 countess ludovica 1"):
        response = admin.put(f"/accounts/{account['id']}/password", json={"password": password})
        assert "name" in problem(response, 422, "password")["errors"][0]["message"]


@table(
    "password",
    [
        "".join(chr(0x1F300 + 7 * n % 701) for n in range(1024)),
        "pass wort mit Umläuten",
        " leading and trailing ",
        "ｆｕｌｌｗｉｄｔｈ of the word",
    ],
    ids=["1024 emoji", "umlauts", "spaces around", "fullwidth"],
)
def test_any_unicode_is_a_password_and_none_of_it_is_cut_off(
    server: LiveServer, admin: Client, password: str
) -> None:
    account = make_account(admin, password=password)
    as_utf8 = password.encode()  # requests sends text as ISO-8859-1
    assert can_log_in(server, account["username"], as_utf8)  # type: ignore[arg-type]
    assert not can_log_in(server, account["username"], as_utf8[:-4])  # type: ignore[arg-type]


def test_a_password_logs_in_however_accents_are_composed(server: LiveServer, admin: Client) -> None:
    password = "façade d'été à Orléans"
    account = make_account(admin, password=unicodedata.normalize("NFD", password))
    for form in ("NFC", "NFD"):
        secret = unicodedata.normalize(form, password).encode()
        assert can_log_in(server, account["username"], secret)  # type: ignore[arg-type]


def test_an_admin_sets_and_removes_a_password(server: LiveServer, admin: Client) -> None:
    account = make_account(admin)
    path = f"/accounts/{account['username']}"
    tag = admin.get(path).headers["ETag"]
    assert not can_log_in(server, account["username"], PASSWORD)
    response = admin.put(f"{path}/password", json={"password": PASSWORD})
    assert (response.status_code, response.content) == (204, b"")
    assert can_log_in(server, account["username"], PASSWORD)
    assert admin.get(path).json()["has_password"] is True
    assert admin.get(path).headers["ETag"] != tag
    ok(admin.put(f"{path}/password", json={"password": OTHER_PASSWORD}), 204)
    assert not can_log_in(server, account["username"], PASSWORD)
    assert can_log_in(server, account["username"], OTHER_PASSWORD)
    ok(admin.delete(f"{path}/password"), 204)
    assert not can_log_in(server, account["username"], OTHER_PASSWORD)
    assert admin.get(path).json()["has_password"] is False
    problem(admin.delete(f"{path}/password"), 404)


def test_a_password_can_be_set_and_not_read(admin: Client) -> None:
    account = make_account(admin, password=PASSWORD)
    problem(admin.get(f"/accounts/{account['id']}/password"), 405)
    for path in (f"/accounts/{account['id']}", "/accounts?limit=200"):
        text = admin.get(path).text
        assert PASSWORD not in text
        assert "argon2" not in text


def test_a_current_password_from_an_admin_is_held_against_the_account(admin: Client) -> None:
    account = make_account(admin, password=PASSWORD)
    path = f"/accounts/{account['id']}/password"
    body = {"password": OTHER_PASSWORD, "current_password": "not at all the password"}
    problem(admin.put(path, json=body), 403)
    ok(admin.put(path, json=body | {"current_password": PASSWORD}), 204)


# --- The account itself ---------------------------------------------------------------------------


def test_metadata_is_in_no_token_and_no_list_but_admins(server: LiveServer, admin: Client) -> None:
    account = make_account(admin, password=PASSWORD, metadata={"note": "hidden-from-services"})
    token = server.client(account["username"], PASSWORD).post("/auth/token").json()["access_token"]
    payload = token.split(".")[1]
    assert b"hidden-from-services" not in urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    reader = make_account(admin, password=PASSWORD, grants={"scopes": ["keyosk:accounts:read"]})
    shown = server.client(reader["username"], PASSWORD).get(f"/accounts/{account['id']}").json()
    assert shown["metadata"] == account["metadata"]


def test_the_admin_is_an_account_as_any_other(admin: Client) -> None:
    body = admin.get("/accounts/me").json()
    assert body["username"] == "admin"
    assert body["metadata"] == {}
    assert admin.get("/accounts/me/grants").json() == {"scopes": ["keyosk:admin"], "roles": []}


# --- Disabled, expired, deleted -------------------------------------------------------------------


@pytest.mark.every_database(always=True)
def test_everything_of_a_deleted_account_stops_at_once(server: LiveServer, admin: Client) -> None:
    service = make_service(admin, "read")
    grants = {"scopes": [f"{service}:read", "keyosk:accounts:read"]}
    account = make_account(admin, password=PASSWORD, grants=grants)
    path, name = f"/accounts/{account['id']}", account["username"]
    key = admin.post(f"{path}/api-keys", json={"name": "k"}).json()
    by_token = Person(server.url, account["id"], name).bearer(PASSWORD)
    assert by_token.get("/accounts?limit=1").status_code == 200
    assert can_log_in(server, name, key["secret"])

    response = admin.delete(f"/accounts/{name}")
    assert (response.status_code, response.content) == (204, b"")
    for gone in (path, f"{path}/grants", f"{path}/api-keys", f"{path}/api-keys/{key['id']}"):
        problem(admin.get(gone), 404)
    assert not can_log_in(server, name, PASSWORD)
    assert not can_log_in(server, name, key["secret"])
    problem(by_token.get("/accounts?limit=1"), 401)
    problem(admin.delete(path), 404)

    # A new account of the same name has nothing of the old one.
    again = admin.post("/accounts", json={"username": name}).json()
    assert again["id"] != account["id"]
    assert again["has_password"] is False
    assert admin.get(f"/accounts/{name}/grants").json() == {"scopes": [], "roles": []}
    assert not can_log_in(server, name, PASSWORD)
    assert not can_log_in(server, name, key["secret"])
    problem(by_token.get("/accounts?limit=1"), 401)


# --- Grants ---------------------------------------------------------------------------------------


def test_a_put_replaces_all_grants_and_they_are_read_back_shortest(admin: Client) -> None:
    service = make_service(admin, "a", "b", "c", "d")
    path = f"/accounts/{make_account(admin)['id']}/grants"
    put = {
        "scopes": [
            {"name": f"{service}:d", "with": "api_key", "until": "2090-01-01T01:00:00+01:00"},
            {"name": f"{service}:c", "until": FAR, "with": None},
            {"name": f"{service}:b", "with": "password"},
            {"name": f"{service}:a", "with": None, "until": None},
        ]
    }
    expected = {
        "scopes": [
            f"{service}:a",
            {"name": f"{service}:b", "with": "password"},
            {"name": f"{service}:c", "until": FAR},
            {"name": f"{service}:d", "with": "api_key", "until": FAR},
        ],
        "roles": [],
    }
    assert admin.put(path, json=put).json() == expected
    assert admin.get(path).json() == expected
    assert admin.put(path, json=expected).json() == expected  # what is read can be written
    taken = admin.put(path, json={"scopes": []}).json()
    assert taken.pop("effective_at_latest") > "20"
    assert taken == {"scopes": [], "roles": []}


def test_a_patch_adds_replaces_and_removes_single_grants(admin: Client) -> None:
    service = make_service(admin, "a", "b", "c")
    path = f"/accounts/{make_account(admin)['id']}/grants"
    admin.put(path, json={"scopes": [f"{service}:a", f"{service}:b"]})
    patched = admin.patch(
        path,
        json={
            "add": {"scopes": [f"{service}:c", {"name": f"{service}:a", "with": "password"}]},
            "remove": {"scopes": [f"{service}:b", "not:held"]},
        },
    )
    expected = {
        "scopes": [{"name": f"{service}:a", "with": "password"}, f"{service}:c"],
        "roles": [],
    }
    assert patched.json().keys() == {*expected, "effective_at_latest"}
    assert patched.json() | expected == patched.json()
    assert admin.patch(path, json={}).json() == expected


def test_grants_with_a_fault_change_nothing(admin: Client) -> None:
    service = make_service(admin, "a", "b")
    path = f"/accounts/{make_account(admin)['id']}/grants"
    admin.put(path, json={"scopes": [f"{service}:a"]})
    good = f"{service}:b"
    refused: list[tuple[str, Any, str]] = [
        ("PUT", {"scopes": [good, "no:such"]}, "scopes"),
        ("PUT", {"scopes": [good, good]}, "scopes"),
        ("PUT", {"scopes": [{"name": good, "with": "face"}]}, "scopes.0.with"),
        ("PUT", {"scopes": [{"name": good, "until": "soon"}]}, "scopes.0.until"),
        ("PUT", {"scopes": [{"with": "password"}]}, "scopes.0.name"),
        ("PUT", {"scopes": [7]}, "scopes.0"),
        ("PUT", {"scope": [good]}, "scope"),
        ("PUT", {"scopes": [good], "roles": ["no-such"]}, "roles"),
        ("PATCH", {"add": {"scopes": [good, "no:such"]}}, "scopes"),
        ("PATCH", {"add": [good]}, "add"),
        ("PATCH", {"scopes": [good]}, "scopes"),
    ]
    for method, body, field in refused:
        response = admin.request(method, path, json=body)
        assert response.status_code == 422, body
        assert field in {
            error["field"].removesuffix("._schema") for error in response.json()["errors"]
        }
        assert admin.get(path).json() == {"scopes": [f"{service}:a"], "roles": []}, body


@pytest.mark.fault
def test_grants_that_are_given_at_once_all_arrive(admin: Client) -> None:
    names = [str(number) for number in range(12)]
    service = make_service(admin, *names)
    path = f"/accounts/{make_account(admin)['id']}/grants"
    given = [{"add": {"scopes": [f"{service}:{name}"]}} for name in names]
    responses = at_once(admin, [patching(path, body) for body in given])
    assert {response.status_code for response in responses} == {200}
    assert len(admin.get(path).json()["scopes"]) == 12


def test_the_admin_of_these_tests_can_still_log_in(server: LiveServer) -> None:
    assert can_log_in(server, "ADMIN", ADMIN_PASSWORD)
