"""Logins as real clients write them: every encoding of the vectors, requests, OAuth, curl."""

import base64
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, quote_plus

import pytest
import requests

import live
from keyosk.web import basic
from live import Client, LiveServer
from tables import table

VECTORS = json.loads((Path(__file__).parent / "vectors" / "basic_auth.json").read_text())["rows"]
GOOD = [row for row in VECTORS if "user" in row and "password" in row]
REFUSED = [row for row in VECTORS if row.get("result") == "refuse"]
(FORM_ENCODING,) = [row for row in VECTORS if "encoded" in row]

#: Makes a vector's password long enough to be set, and changes in no encoding.
FILLER: Final = ".and-long.enough_now"

#: How clients make bytes of a pair.
FORMS: Final[Mapping[str, Callable[[str], bytes]]] = {
    "as it is in UTF-8": str.encode,
    "as it is in ISO-8859-1": lambda text: text.encode("iso-8859-1"),
    "form-encoded": lambda text: quote_plus(text).encode(),
    "percent-encoded": lambda text: quote(text, safe="").encode(),
    "form-encoded in ISO-8859-1": lambda text: quote_plus(text, encoding="iso-8859-1").encode(),
}


@dataclass(frozen=True)
class Account:
    id: str
    username: str
    password: str


def make_account(admin: Client, username: str, password: str) -> Account:
    response = admin.post("/accounts", json={"username": username, "password": password})
    assert response.status_code == 201, response.text
    return Account(response.json()["id"], username, password)


def header(user: str, password: str, form: str, scheme: str = "Basic") -> str:
    encode = FORMS[form]
    return f"{scheme} {base64.b64encode(encode(user) + b':' + encode(password)).decode()}"


def forms_of(*texts: str) -> list[str]:
    """The forms that can carry these texts; ISO-8859-1 has no euro sign."""
    latin = all(ord(character) < 256 for text in texts for character in text)
    return [form for form in FORMS if latin or "ISO" not in form]


def log_in(server: LiveServer, authorization: str) -> requests.Response:
    return server.client().get("/accounts/me", headers={"Authorization": authorization})


def assert_logs_in(response: requests.Response, account: Account) -> None:
    assert response.status_code == 200, response.text
    assert response.json()["id"] == account.id


# --- The vectors ----------------------------------------------------------------------------------


@table("row", GOOD, ids=[row["name"] for row in GOOD])
def test_the_pairs_of_the_vectors_log_in_in_every_encoding(
    server: LiveServer, admin: Client, row: dict[str, str]
) -> None:
    account = make_account(admin, live.unique(row["user"]), row["password"] + FILLER)
    scheme = row["header"].partition(" ")[0]
    forms = forms_of(account.password)
    # The row's own encoding is among those tried: the same pair in it gives the row's header.
    assert row["header"] in [header(row["user"], row["password"], f, scheme) for f in forms]

    for form in forms:
        value = header(account.username, account.password, form, scheme)
        assert_logs_in(log_in(server, value), account)
    wrong = header(account.username, account.password + "x", forms[0], scheme)
    assert log_in(server, wrong).status_code == 401


@table("row", REFUSED, ids=[row["name"] for row in REFUSED])
def test_headers_that_vectors_refuse_are_refused(server: LiveServer, row: dict[str, str]) -> None:
    response = log_in(server, row["header"])

    assert response.status_code == 401
    assert response.json()["code"] == "bad_credentials"


def test_the_form_encoding_of_the_rfc_is_understood(server: LiveServer, admin: Client) -> None:
    account = make_account(admin, live.unique("u"), FORM_ENCODING["plain"] + FILLER)
    raw = f"{account.username}:{FORM_ENCODING['encoded']}{FILLER}".encode()

    assert_logs_in(log_in(server, f"Basic {base64.b64encode(raw).decode()}"), account)


# --- What is between the encodings ----------------------------------------------------------------


@table(
    "password",
    [
        "100% sure+certain about it",
        "this is %41 and not an A",
        "a+b%2Bc%20d is what was typed",
        "%E2%82%AC as somebody typed it",
        "\u00c3\u00a9 looks like a broken \u00e9",
        " begins and ends with a space ",
        "colon:in:the:middle:of:it",
        "\U0001f511 an emoji is a character",
    ],
)
def test_a_password_that_looks_encoded_logs_in_as_it_is_and_encoded(
    server: LiveServer, admin: Client, password: str
) -> None:
    account = make_account(admin, live.unique("odd"), password)

    for form in set(forms_of(password)) - {"percent-encoded", "form-encoded in ISO-8859-1"}:
        # Two forms may read as another pair that is tried first; it is not this account's.
        assert_logs_in(log_in(server, header(account.username, password, form)), account)


def test_a_password_is_not_decoded_twice(server: LiveServer, admin: Client) -> None:
    account = make_account(admin, live.unique("once"), "either a+b or c+d, never both")
    twice = quote_plus(quote_plus(account.password))

    assert log_in(server, header(account.username, twice, "as it is in UTF-8")).status_code == 401


def test_usernames_beyond_ascii_log_in_in_every_encoding(server: LiveServer, admin: Client) -> None:
    account = make_account(admin, live.unique("j\u00f6rg"), "a password of some length")

    for form in FORMS:
        assert_logs_in(log_in(server, header(account.username, account.password, form)), account)
    # Decomposed, as some systems type it.
    decomposed = account.username.replace("\u00f6", "o\u0308")
    assert decomposed != account.username
    for name in (account.username.upper(), decomposed):
        assert_logs_in(log_in(server, header(name, account.password, "as it is in UTF-8")), account)


def test_a_password_typed_in_parts_is_the_same_password(server: LiveServer, admin: Client) -> None:
    account = make_account(admin, live.unique("nfc"), "caf\u00e9 with some more letters")
    decomposed = account.password.replace("\u00e9", "e\u0301")

    value = header(account.username, decomposed, "as it is in UTF-8")

    assert_logs_in(log_in(server, value), account)


def test_case_and_spaces_of_a_password_count(server: LiveServer, admin: Client) -> None:
    account = make_account(admin, live.unique("exact"), "Exactly this, no other")

    for other in ("exactly this, no other", account.password + " ", account.password[:-1]):
        value = header(account.username, other, "as it is in UTF-8")
        assert log_in(server, value).status_code == 401
    value = header(account.username, account.password, "as it is in UTF-8")
    assert_logs_in(log_in(server, value), account)


def test_the_longest_password_logs_in_and_no_longer_one(server: LiveServer, admin: Client) -> None:
    password = "".join(chr(0x20AC + number % 50) for number in range(1024))
    account = make_account(admin, live.unique("long"), password)
    for form in ("as it is in UTF-8", "form-encoded"):
        value = header(account.username, password, form)
        assert len(value) <= basic.MAX_HEADER_LENGTH
        assert_logs_in(log_in(server, value), account)
    for other in (password[:-1], password[:72], password + "x"):
        value = header(account.username, other, "as it is in UTF-8")
        assert log_in(server, value).status_code == 401


def test_an_api_key_logs_in_in_every_encoding_and_nowhere_but_as_the_secret(
    server: LiveServer, admin: Client
) -> None:
    account = make_account(admin, live.unique("keyed"), "a password of some length")
    response = admin.post(f"/accounts/{account.username}/api-keys", json={"name": "k"})
    secret = response.json()["secret"]

    for form in FORMS:
        assert_logs_in(log_in(server, header(account.username, secret, form)), account)
    for user, password in ((secret, ""), ("", secret), (secret, secret)):
        assert log_in(server, header(user, password, "as it is in UTF-8")).status_code == 401


# --- Programs -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alice(admin: Client) -> Account:
    """With a password that every encoding writes differently, and that ISO-8859-1 has."""
    return make_account(admin, live.unique("alice"), 's\u00e9same: 100% + "q\\uote" & m\u00f6re')


def test_requests_logs_in_with_text_and_with_bytes(server: LiveServer, alice: Account) -> None:
    name, password = alice.username, alice.password
    assert password.encode() != password.encode("iso-8859-1")

    for auth in (
        (name, password),  # which requests sends in ISO-8859-1
        (name.encode(), password.encode("iso-8859-1")),
        (name.encode(), password.encode()),
    ):
        session = requests.Session()
        session.trust_env = False
        with session:
            # types-requests does not know that bytes are taken as they are.
            given: Any = auth
            response = session.post(f"{server.url}/auth/token", auth=given, timeout=60)
        assert response.status_code == 200
        assert response.json()["token_type"] == "Bearer"


def test_an_oauth_library_logs_in(server: LiveServer, alice: Account) -> None:
    """RFC 6749 section 2.3.1, as Spring, Go's oauth2 and authlib's servers have it."""
    auth = (quote_plus(alice.username), quote_plus(alice.password))
    body = {"grant_type": "client_credentials"}

    response = server.client(*auth).post("/auth/token", data=body)

    assert response.status_code == 200
    assert response.json()["token_type"] == "Bearer"


def curl(*arguments: str, text: str = "") -> str:
    program = shutil.which("curl")
    if program is None:
        pytest.skip("there is no curl on this machine")
    result = subprocess.run(
        [program, "--silent", "--show-error", "--noproxy", "*", "--max-time", "20", *arguments],
        input=text.encode(),
        capture_output=True,
        timeout=30,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.decode()


def test_curl_logs_in_by_option(server: LiveServer, alice: Account) -> None:
    user = f"{alice.username}:{alice.password}"

    shown = curl("-u", user, "-X", "POST", f"{server.url}/auth/token")

    assert json.loads(shown)["token_type"] == "Bearer"
    wrong = json.loads(curl("-u", user + "x", "-X", "POST", f"{server.url}/auth/token"))
    assert wrong["error"] == "invalid_client"


def test_curl_logs_in_by_configuration_on_stdin(server: LiveServer, alice: Account) -> None:
    """So that the password stands in no list of processes."""
    user = f"{alice.username}:{alice.password}".replace("\\", "\\\\").replace('"', '\\"')

    shown = curl("-K", "-", f"{server.url}/auth/token", text=f'user = "{user}"\n')

    assert json.loads(shown)["token_type"] == "Bearer"


def test_the_header_format_goes_from_curl_to_curl(server: LiveServer, alice: Account) -> None:
    user = f"{alice.username}:{alice.password}"
    line = curl("-u", user, f"{server.url}/auth/token?format=header&audience=keyosk")

    assert json.loads(curl("-H", "@-", f"{server.url}/accounts/me", text=line))["id"] == alice.id
