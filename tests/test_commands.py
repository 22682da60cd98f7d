"""The commands for operators: what they do is seen by HTTP, and the other way round.

Most run inside this process, through the very ``main`` that the installed command calls: starting
Python takes longer than the command. Those that are about processes start one.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click import Context, Group, Option
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from playhouse.migrations import Runner

from keyosk import cli
from keyosk.cli import groups
from keyosk.config import SETTINGS
from keyosk.credentials import api_key_format
from keyosk.storage import schema
from keyosk.storage.database import Database
from live import ADMIN_PASSWORD, SECRET_KEY, Client, LiveServer, command, free_port, unique
from people import can_log_in, make_person, ok
from processes import execute
from tables import table
from terminal import Done, keyosk

PASSWORD = "seven quiet herons wade"
OTHER_PASSWORD = "nine loud magpies quarrel"
FAR = "2090-01-01T00:00:00Z"


Run = Callable[..., Done]


@pytest.fixture
def run(server: LiveServer) -> Run:
    """Runs a command on the installation that the shared server serves."""
    return lambda *arguments, text="": keyosk(
        server.environment, server.folder, *arguments, text=text
    )


# --- Mistakes on the command line -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("rolee", "list"), "role"),
        (("account", "creat"), "create"),
        (("tokn",), "token"),
        (("help",), "--help"),
        (("version",), "--version"),
        # Words of other systems.
        (("user", "list"), "account"),
        (("Clients",), "account"),
        (("account", "add"), "create"),
        (("api-key", "ls"), "list"),
        (("backup",), "database"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_mistyped_command_is_told_with_the_nearest_one(
    run: Run, arguments: tuple[str, ...], meant: str
) -> None:
    result = run(*arguments)
    assert result.code == 2
    assert f"Did you mean '{meant}'?" in result.err
    assert "Did you mean" not in run("xyzzy").err


def test_every_word_of_other_systems_leads_to_a_command() -> None:
    commands = {name for group, _ in _groups() for name in group.list_commands(Context(group))}
    assert not {name for names in groups.WORDS.values() for name in names} - commands


def test_help_says_in_a_whole_sentence_what_each_command_does() -> None:
    for group, path in _groups():
        shown = group.get_help(Context(group, info_name=path, terminal_width=80))
        summaries = shown.partition("\nCommands:\n")[2]
        assert summaries.count(".\n") + 1 == len(group.list_commands(Context(group))), summaries
        assert "..." not in summaries, path


def test_help_explains_every_option_that_takes_a_time() -> None:
    for group, path in _groups():
        for name, subcommand in group.commands.items():
            for option in subcommand.params:
                if option.metavar == "TIME" and isinstance(option, Option):
                    assert "2030-01-31" in (option.help or ""), (path, name, option.name)


def _groups() -> Iterator[tuple[Group, str]]:
    """Yield every group of commands, loaded."""
    top = cli.keyosk
    assert isinstance(top, Group)
    loaded = [top.get_command(Context(top), name) for name in top.list_commands(Context(top))]
    yield top, "keyosk"
    yield from ((each, str(each.name)) for each in loaded if isinstance(each, Group))


def test_a_server_that_somebody_gives_as_an_argument_is_told_its_option(run: Run) -> None:
    for more in ((), ("admin",)):
        result = run("login", f"https://admin:{PASSWORD}@keyosk.example.com", *more)
        assert result.code == 2
        assert "--server URL" in result.err
        assert PASSWORD not in result.out + result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("account", "create", "zoe", "--password", PASSWORD),
        ("account", "password", "zoe", PASSWORD),
        ("--server", "https://keyosk.example.com", "login", PASSWORD),
        ("api-key", "find", "kysk_", PASSWORD),
    ],
    ids=lambda value: value[1],
)
def test_a_secret_that_somebody_gives_as_an_argument_is_not_repeated(
    run: Run, arguments: tuple[str, ...]
) -> None:
    result = run(*arguments)
    assert result.code == 2
    assert PASSWORD not in result.out + result.err
    assert "standard input" in result.err
    assert "change it" in result.err


# --- account --------------------------------------------------------------------------------------


def test_a_created_account_is_shown_as_the_api_shows_it(run: Run, admin: Client) -> None:
    name = unique("Made")
    created = run("account", "create", name, "--json").json
    shown = admin.get(f"/accounts/{name}").json()
    assert created == shown == run("account", "show", name.upper(), "--json").json
    assert run("account", "show", created["id"], "--json").json == shown
    listed = run("account", "list", "--json").json
    assert listed["next"] is None
    assert shown in listed["items"]
    assert listed["items"] == sorted(listed["items"], key=lambda item: item["id"])
    total = admin.get("/accounts?limit=1&total=true").headers["X-Total-Count"]
    assert len(listed["items"]) == int(total)


def test_an_account_has_what_the_options_say(run: Run, server: LiveServer, admin: Client) -> None:
    name, service = unique("full"), unique("service")
    run("service", "create", service, "--scope", f"{service}:a", "--scope", f"{service}:b")
    result = run(
        *("account", "create", name, "--kind", "machine", "--display-name", "Ünit 7"),
        *("--password", "--grant", f"{service}:a", "--grant", f"{service}:b"),
        *("--expires-at", "2090-01-01"),
        text=PASSWORD + "\n",
    )
    assert result.code == 0, result.err
    shown = admin.get(f"/accounts/{name}").json()
    assert (shown["kind"], shown["display_name"]) == ("machine", "Ünit 7")
    assert (shown["expires_at"], shown["has_password"]) == (FAR, True)
    assert admin.get(f"/accounts/{name}/grants").json()["scopes"] == [
        f"{service}:a",
        f"{service}:b",
    ]
    assert can_log_in(server, name, PASSWORD)
    assert PASSWORD not in result.out + result.err


def test_an_object_and_a_list_are_readable_without_json(run: Run) -> None:
    name = unique("plain")
    created = run("account", "create", name)
    lines = [line.split(None, 1) for line in created.out.splitlines()]
    for line in (["username", name], ["enabled", "yes"], ["expires_at", "-"]):
        assert line in lines
    table = run("account", "list").out.splitlines()
    assert table[0].split() == [
        *("username", "kind", "enabled", "has_password", "last_login_at", "id")
    ]
    assert [line.split()[0] for line in table].count(name) == 1


@pytest.mark.parametrize("ending", ["\n", "\r\n", "", "\nand a second line\n"])
def test_a_password_is_the_first_line_of_input(run: Run, server: LiveServer, ending: str) -> None:
    name = unique("typed")
    run("account", "create", name)
    result = run("account", "password", name, text=PASSWORD + ending)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert can_log_in(server, name, PASSWORD)


def test_a_new_password_takes_the_place_of_the_old_one(run: Run, server: LiveServer) -> None:
    name = unique("changed")
    run("account", "create", name, "--password", text=PASSWORD)
    assert run("account", "password", name, text=OTHER_PASSWORD).code == 0
    assert not can_log_in(server, name, PASSWORD)
    assert can_log_in(server, name, OTHER_PASSWORD)


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("rosebud-9182", "at least 15 characters"),
        ("Passwordpassword1!", "a common password"),
        ("", "must not be empty"),
        ("kysk_rosebud-rosebud-rosebud", "must not start with kysk_"),
    ],
)
def test_a_password_that_is_refused_is_answered_with_its_reason_and_not_repeated(
    run: Run, server: LiveServer, admin: Client, password: str, reason: str
) -> None:
    name = unique("refused")
    assert reason in run("account", "create", name, "--password", text=password).refused()
    assert admin.get(f"/accounts/{name}").status_code == 404
    run("account", "create", name, "--password", text=PASSWORD)
    said = run("account", "password", name, text=password).refused()
    assert reason in said
    assert not password or password not in said
    assert can_log_in(server, name, PASSWORD)


def test_a_disabled_account_is_refused_until_it_is_enabled(run: Run, server: LiveServer) -> None:
    name = unique("switched")
    run("account", "create", name, "--password", text=PASSWORD)
    assert run("account", "disable", name).code == 0
    assert not can_log_in(server, name, PASSWORD)
    assert run("account", "enable", name).code == 0
    assert can_log_in(server, name, PASSWORD)


def test_a_deleted_account_is_gone(run: Run, server: LiveServer, admin: Client) -> None:
    name = unique("deleted")
    run("account", "create", name, "--password", text=PASSWORD)
    result = run("account", "delete", name.upper())
    assert (result.code, result.out) == (0, "")
    assert admin.get(f"/accounts/{name}").status_code == 404
    assert not can_log_in(server, name, PASSWORD)
    assert "no such account" in run("account", "show", name).refused()


def test_a_username_that_is_taken_is_refused(run: Run) -> None:
    assert run("account", "create", "ADMIN").refused() == (
        "keyosk: ADMIN: Another account already has this username.\n"
    )
    name, other = unique("taken"), unique("other")
    run("service", "create", name)
    run("service", "create", other)
    refused = run("service", "set", other, "--audience", name).refused()
    assert refused.startswith(f"keyosk: Another service already has the name or audience {name}, ")


def test_every_fault_is_told_on_a_line_of_its_own(run: Run) -> None:
    result = run(
        "account", "create", "two words", "--display-name", "\x07", "--expires-at", "1980-01-01"
    )
    faults = [line.split(": ")[1] for line in result.refused(sentences=3).splitlines()]
    assert faults == ["username", "display_name", "expires_at"]


# --- api-key --------------------------------------------------------------------------------------


def test_a_created_key_prints_its_secret_once_in_the_shape_of_the_api(
    run: Run, server: LiveServer, admin: Client
) -> None:
    name = unique("keys")
    run("account", "create", name)
    created = run(
        "api-key", "create", name, "laptop", "--description", "of the office", "--json"
    ).json
    by_http = admin.post(f"/accounts/{name}/api-keys", json={"name": "other"}).json()
    assert list(created) == list(by_http)
    secret = created.pop("secret")
    assert api_key_format.is_well_formed(secret)
    assert can_log_in(server, name, secret)
    assert (
        admin.get(f"/accounts/{name}/api-keys/{created['id']}").json() | {"last_used_at": None}
        == created
    )
    listed = run("api-key", "list", name, "--json")
    assert [key["name"] for key in listed.json["items"]] == ["laptop", "other"]
    assert secret[12:] not in listed.out + run("api-key", "list", name).out
    plain = run("api-key", "create", name, "printed")
    [shown] = [line.split()[1] for line in plain.out.splitlines() if line.startswith("secret ")]
    assert can_log_in(server, name, shown)


def test_a_key_can_be_limited_and_can_expire(run: Run, server: LiveServer) -> None:
    name, service = unique("limited"), unique("service")
    run("service", "create", service, "--scope", f"{service}:a", "--scope", f"{service}:b")
    run("account", "create", name, "--grant", f"{service}:a", "--grant", f"{service}:b")
    created = run(
        *("api-key", "create", name, "k", "--scope", f"{service}:b", "--expires-at", FAR, "--json")
    ).json
    assert (created["scopes"], created["expires_at"]) == ([f"{service}:b"], FAR)
    assert (
        server.client(name, created["secret"]).post("/auth/token").json()["scope"] == f"{service}:b"
    )
    past = run("api-key", "create", name, "k", "--expires-at", "2020-01-01").refused()
    assert "expires_at: must be in the future" in past
    assert "no scope" in run("api-key", "create", name, "k", "--scope", "no:such").refused()
    assert len(run("api-key", "list", name, "--json").json["items"]) == 1


def test_a_key_is_disabled_and_deleted_by_its_id(run: Run, server: LiveServer) -> None:
    name = unique("stopped")
    run("account", "create", name)
    first, second = (run("api-key", "create", name, n, "--json").json for n in "ab")
    assert run("api-key", "disable", name, first["id"]).code == 0
    assert run("api-key", "delete", name, second["id"]).code == 0
    assert not can_log_in(server, name, first["secret"])
    assert not can_log_in(server, name, second["secret"])
    [left] = run("api-key", "list", name, "--json").json["items"]
    assert (left["id"], left["enabled"]) == (first["id"], False)
    for wrong in (second["id"], "x", ""):
        assert "no such API key" in run("api-key", "delete", name, wrong).refused()
    assert "no such account" in run("api-key", "list", "nobody-at-all").refused()


def test_a_key_is_given_by_its_name_or_prefix_if_only_one_has_it(run: Run) -> None:
    name = unique("named")
    run("account", "create", name)
    laptop, *twins = (
        run("api-key", "create", name, n, "--json").json for n in ("laptop", "twin", "twin")
    )
    assert run("api-key", "show", name, "laptop", "--json").json["id"] == laptop["id"]
    assert run("api-key", "set", name, laptop["prefix"], "--description", "d").code == 0
    assert run("api-key", "disable", name, "laptop").code == 0
    assert run("api-key", "show", name, laptop["id"], "--json").json["enabled"] is False
    assert run("api-key", "enable", name, "laptop").code == 0
    refused = run("api-key", "delete", name, "twin").refused()
    assert all(twin["id"] in refused for twin in twins)
    # A script can rotate by name again and again: a key that has a successor is not meant.
    successor = run("api-key", "rotate", name, "laptop", "--json").json
    last = run("api-key", "rotate", name, "laptop", "--json").json
    keys = {k["id"]: k["successor"] for k in run("api-key", "list", name, "--json").json["items"]}
    assert (keys[laptop["id"]], keys[successor["id"]]) == (successor["id"], last["id"])
    assert "has 3 such API keys" in run("api-key", "delete", name, "laptop").refused()
    assert run("api-key", "delete", name, laptop["prefix"]).code == 0


# --- service --------------------------------------------------------------------------------------


def test_a_created_service_is_shown_as_the_api_shows_it(run: Run, admin: Client) -> None:
    name = unique("service")
    created = run(
        *("service", "create", name, "--audience", f"https://{name}.example", "--title", "Töst"),
        *("--scope", f"{name}:write", "--scope", f"{name}:read", "--json"),
    ).json
    shown = admin.get(f"/services/{name}").json()
    assert created == shown == run("service", "show", name, "--json").json
    assert (created["audience"], created["title"]) == (f"https://{name}.example", "Töst")
    assert [scope["name"] for scope in created["scopes"]] == [f"{name}:read", f"{name}:write"]
    other = unique("service")
    described = [{"name": f"{other}:a", "description": "To see."}, f"{other}:b"]
    ok(admin.post("/services", json={"name": other, "scopes": described}), 201)
    listed = f"scopes             {other}:a (To see.), {other}:b\n"
    assert listed in run("service", "show", other).out
    assert shown in run("service", "list", "--json").json["items"]
    assert name in run("service", "list").out
    assert f"already has the name or audience {name}" in run("service", "create", name).refused()


def test_the_scopes_of_a_service_are_replaced_and_those_that_stay_keep_what_they_had(
    run: Run, admin: Client
) -> None:
    name, holder = unique("service"), unique("holder")
    described = {"name": f"{name}:a", "description": "To see it."}
    admin.post("/services", json={"name": name, "scopes": [described, f"{name}:b"]})
    run("account", "create", holder, "--grant", f"{name}:a", "--grant", f"{name}:b")
    replace = ("service", "scopes", name, f"{name}:c", f"{name}:a", "--json")
    assert run(*replace).refused() == (
        f"keyosk: {name}:b is still granted to 1 account ({holder}). "
        "Repeat with --force to remove it.\n"
    )
    assert len(admin.get(f"/accounts/{holder}/grants").json()["scopes"]) == 2
    changed = run(*replace, "--force").json
    assert changed["scopes"] == [described, {"name": f"{name}:c", "description": ""}]
    assert admin.get(f"/services/{name}").json() == changed
    assert admin.get(f"/accounts/{holder}/grants").json() == {"scopes": [f"{name}:a"], "roles": []}
    # Somebody who forgot the names must not lose all scopes and their grants.
    assert run("service", "scopes", name).code == 2
    assert admin.get(f"/services/{name}").json() == changed
    assert "Keyosk's own" in run("service", "scopes", name, "keyosk:x").refused()


def test_a_deleted_service_is_gone_and_keyosks_own_is_not(run: Run, admin: Client) -> None:
    name = unique("service")
    run("service", "create", name, "--scope", f"{name}:a")
    holders = sorted(unique("holder") for _ in range(7))
    for holder in holders:
        run("account", "create", holder, "--grant", f"{name}:a")
    run("role", "create", unique("role"), f"{name}:a")
    said = run("service", "delete", name).refused()
    assert f"{name}:a is still granted to 7 accounts ({', '.join(holders[:5])} and 2 more)" in said
    assert " and part of 1 role (role-" in said
    # SECURITY: without names for who may change services and not see accounts.
    response = make_person(admin, "keyosk:services:write").bearer().delete(f"/services/{name}")
    assert response.status_code == 409
    assert response.json()["detail"] == (
        f"{name}:a is still granted to 7 accounts and part of 1 role."
    )
    assert admin.get(f"/services/{name}").status_code == 200
    assert run("service", "delete", name, "--force").code == 0
    assert admin.get(f"/services/{name}").status_code == 404
    assert "no such service" in run("service", "delete", name).refused()
    for force in ((), ("--force",)):
        said = run("service", "delete", "keyosk", *force).refused()
        assert "Keyosk's own service cannot be deleted" in said
    assert admin.get("/services/keyosk").status_code == 200


# --- grant ----------------------------------------------------------------------------------------


def test_grants_are_given_taken_and_listed_in_the_shape_of_the_api(run: Run, admin: Client) -> None:
    name, service = unique("granted"), unique("service")
    a, b, c = (f"{service}:{letter}" for letter in "abc")
    run("service", "create", service, "--scope", a, "--scope", b, "--scope", c)
    run("account", "create", name)
    assert run("grant", "add", name, a, b, "--json").json == {"scopes": [a, b], "roles": []}
    timed = run("grant", "add", name, c, b, "--with", "password", "--until", FAR, "--json").json
    assert timed["scopes"] == [
        a,
        {"name": b, "with": "password", "until": FAR},
        {"name": c, "with": "password", "until": FAR},
    ]
    assert admin.get(f"/accounts/{name}/grants").json() == timed
    assert run("grant", "list", name, "--json").json == timed
    rows = [line.split() for line in run("grant", "list", name).out.splitlines()]
    assert rows == [
        ["scope", "role", "with", "until"],
        [a, "-", "-", "-"],
        [b, "-", "password", FAR],
        [c, "-", "password", FAR],
    ]
    (held, *_) = run("grant", "uses", name, "--json").json["items"]
    assert (held["name"], held["last_issued_on"]) == (a, None)
    assert a in run("grant", "uses", name).out
    assert run("grant", "unused", "--scope", a, "--json").json == {"items": [], "next": None}
    assert run("grant", "remove", name, a, c, "--json").json["scopes"] == [timed["scopes"][1]]
    assert "there is no scope no:such" in run("grant", "add", name, a, "no:such").refused()
    assert len(admin.get(f"/accounts/{name}/grants").json()["scopes"]) == 1
    assert "no such account" in run("grant", "list", "nobody-at-all").refused()


# --- signing-key ----------------------------------------------------------------------------------


def test_a_key_is_imported_from_a_file_and_a_second_one_is_told_which_is_next(
    tmp_path: Path,
) -> None:
    environment = {"KEYOSK_DATABASE_URL": f"sqlite:///{tmp_path}/keyosk.db"}
    assert keyosk(environment, tmp_path, "database", "upgrade").code == 0
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    (tmp_path / "key.pem").write_text(pem)
    command = ("signing-key", "import")
    kid = keyosk(environment, tmp_path, *command, str(tmp_path / "key.pem"), "--json").json["kid"]
    second = keyosk(environment, tmp_path, *command, text=pem)
    assert second.refused() == (
        f"keyosk: A rotation of ES256 is in progress: {kid} is its next key.\n"
    )


def test_the_signing_keys_are_those_that_are_published_without_their_private_halves(
    run: Run, admin: Client
) -> None:
    result = run("signing-key", "list", "--json")
    keys = {key["kid"]: key for key in result.json["items"]}
    # The key that signs now is first; another test's service may have one of its own.
    published, *_ = admin.get("/auth/jwks").json()["keys"]
    key = keys[published["kid"]]
    assert (key["kid"], key["algorithm"]) == (published["kid"], published["alg"])
    assert key["state"] == "active"
    assert key["published_at"] == key["active_from"]
    assert key.keys() <= {
        *("kid", "algorithm", "state", "published_at", "active_from"),
        *("retired_at", "gone_at", "not_seen_by", "created_at"),
    }
    assert key["kid"] in run("signing-key", "list").out


def test_a_kid_that_begins_with_a_dash_is_no_option(run: Run) -> None:
    for begin in ("-h", "-y", "-nHh", "--", "--help", "-_"):
        kid = begin.ljust(43, "A")
        for words in (["retire"], ["compromise"], ["export"], ["export", "--jwk"]):
            for arguments in ([*words, kid], [*words, "--", kid]):
                assert "no such" in run("signing-key", *arguments).refused()
    for word in ("retire", "compromise", "export"):
        result = run("signing-key", word, "-nHh")
        assert (result.code, "No such option" in result.err) == (2, True), result


# --- config ---------------------------------------------------------------------------------------


def test_config_check_shows_every_setting_and_masks_secrets(run: Run, server: LiveServer) -> None:
    result = run("config", "check", "--json")
    rows = {row["setting"]: row for row in result.json["items"]}
    assert list(rows) == [setting.variable for setting in SETTINGS]
    assert rows["KEYOSK_BIND"] == {
        "setting": "KEYOSK_BIND",
        "value": f"127.0.0.1:{server.port}",
        "source": "environment",
    }
    assert rows["KEYOSK_TOKEN_LIFETIME"]["source"] == "default"
    for name in ("KEYOSK_SECRET_KEY", "KEYOSK_ADMIN_PASSWORD"):
        assert rows[name]["value"] == "***"
    table = run("config", "check")
    for said in (result.out + result.err, table.out + table.err):
        assert "KEYOSK_BIND" in said
        assert SECRET_KEY not in said
        assert ADMIN_PASSWORD not in said


def test_config_check_masks_the_password_of_the_database(tmp_path: Path) -> None:
    environment = {
        "KEYOSK_DATABASE_URL": "postgresql://keyosk:hidden-word@db.example/keyosk?sslpassword=also",
        "KEYOSK_SECRET_KEY": SECRET_KEY,
    }
    result = keyosk(environment, tmp_path, "config", "check")
    assert result.code == 0
    assert "postgresql://keyosk:***@db.example/keyosk?***" in result.out
    assert "hidden-word" not in result.out + result.err
    assert "also" not in result.out


def test_settings_with_faults_are_refused_all_at_once_and_not_repeated(tmp_path: Path) -> None:
    environment = {
        "KEYOSK_BIND": "nowhere-to-bind",
        "KEYOSK_SECRET_KEY": "hidden-short-key",
        "KEYOSK_WORKERZ": "3",
    }
    for arguments in (("config", "check"), ("account", "list"), ("serve",)):
        said = keyosk(environment, tmp_path, *arguments).refused(sentences=3)
        for name in environment:
            assert f"keyosk: {name}: " in said
        assert "did you mean KEYOSK_WORKERS" in said
        assert "hidden-short-key" not in said
    assert list(tmp_path.iterdir()) == []


# --- Used wrongly ---------------------------------------------------------------------------------


@table(
    "arguments",
    [
        (),
        ("nonsense",),
        ("account",),
        ("account", "nonsense"),
        ("account", "create"),
        ("account", "create", "a", "b"),
        ("account", "create", "a", "--kind", "robot"),
        ("account", "create", "a", "--expires-at", "soon"),
        ("account", "list", "--nonsense"),
        ("api-key", "create", "admin"),
        ("api-key", "create", "admin", "k", "--expires-at", "2090-13-01"),
        ("grant", "add", "admin"),
        ("grant", "add", "admin", "a:b", "--with", "face"),
        ("service", "scopes"),
        ("config",),
        ("database", "downgrade"),
        ("serve", "now"),
    ],
    ids=lambda arguments: " ".join(arguments) or "nothing",
)
def test_wrong_usage_exits_2_and_is_explained(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = keyosk({}, tmp_path, *arguments)
    assert (result.code, result.out) == (2, "")
    assert list(tmp_path.iterdir()) == []
    assert "Usage: keyosk" in result.err


def test_help_is_no_error(tmp_path: Path) -> None:
    for arguments in (("--help",), ("account", "create", "-h")):
        result = keyosk({}, tmp_path, *arguments)
        assert (result.code, result.err) == (0, "")
        assert result.out.startswith("Usage: keyosk")


def test_bytes_that_are_no_text_are_used_wrongly(tmp_path: Path) -> None:
    name = b"\xff".decode(errors="surrogateescape")  # as Python gives them to a program
    for arguments in (("grant", "add", "admin", name), ("api-key", "delete", "admin", name)):
        result = keyosk({}, tmp_path, *arguments)
        assert (result.code, result.err) == (2, "keyosk: the arguments must be UTF-8\n")


# --- database, and what stands in the way of a command --------------------------------------------


def settings_for(database_url: str) -> dict[str, str]:
    return {
        "KEYOSK_DATABASE_URL": database_url,
        "KEYOSK_SECRET_KEY": SECRET_KEY,
        "KEYOSK_ADMIN_PASSWORD": ADMIN_PASSWORD,
    }


@pytest.mark.every_database
def test_a_command_before_the_set_up_is_refused_with_what_to_do_and_sets_nothing_up(
    backend: str, database_url: str, tmp_path: Path
) -> None:
    for arguments in (("account", "list"), ("account", "create", "alice"), ("signing-key", "list")):
        said = keyosk(settings_for(database_url), tmp_path, *arguments).refused()
        assert "it is not set up. keyosk serve sets it up." in said
        assert SECRET_KEY not in said
    if backend == "sqlite":
        assert list(tmp_path.iterdir()) == []


def test_an_upgrade_sets_up_an_empty_database_once(database_url: str, tmp_path: Path) -> None:
    environment = settings_for(database_url)
    del environment["KEYOSK_ADMIN_PASSWORD"]
    first = keyosk(environment, tmp_path, "database", "upgrade")
    assert first.code == 0, first.err
    [password] = re.findall(r"^    ((?:[a-z2-9]{5}-){5}[a-z2-9]{5})$", first.out, re.MULTILINE)
    # SECURITY: no line that sends it to whoever has the port meanwhile; serve prints one.
    assert "curl" not in first.out
    assert first.out.count(password) == 1
    second = keyosk(environment, tmp_path, "database", "upgrade")
    assert (second.code, second.out, second.err) == (0, "", "")
    [admin] = keyosk(environment, tmp_path, "account", "list", "--json").json["items"]
    assert (admin["username"], admin["has_password"]) == ("admin", True)
    assert keyosk(environment, tmp_path, "grant", "list", "admin", "--json").json == {
        "scopes": ["keyosk:admin"],
        "roles": [],
    }
    assert len(keyosk(environment, tmp_path, "signing-key", "list", "--json").json["items"]) == 1


def test_an_admin_password_that_breaks_a_rule_is_refused_and_can_be_corrected(
    database_url: str, tmp_path: Path
) -> None:
    environment = settings_for(database_url) | {"KEYOSK_ADMIN_PASSWORD": "adminadminadminadmin"}
    said = keyosk(environment, tmp_path, "database", "upgrade").refused()
    assert "password" in said
    assert "adminadminadminadmin" not in said
    result = keyosk(settings_for(database_url), tmp_path, "database", "upgrade")
    assert result.code == 0
    assert "The first account is" not in result.out  # the operator knows the password
    assert ADMIN_PASSWORD not in result.out


def test_a_database_that_a_newer_keyosk_upgraded_is_refused_by_every_command(
    database_url: str, tmp_path: Path
) -> None:
    environment = settings_for(database_url)
    assert keyosk(environment, tmp_path, "database", "upgrade").code == 0
    database = Database(database_url)
    database.raw.execute_sql(
        "INSERT INTO schema_migration (name, applied) VALUES ('9999_later', '2090-01-01 00:00:00')"
    )
    database.close()
    # serve is refused before it answers, so it may run in here too.
    environment |= {"KEYOSK_BIND": f"127.0.0.1:{free_port()}", "KEYOSK_METRICS_BIND": "off"}
    for arguments in (("serve",), ("database", "upgrade"), ("account", "list")):
        said = keyosk(environment, tmp_path, *arguments).refused()
        assert "upgraded by a newer Keyosk (9999_later)" in said
    checks = json.loads(keyosk(environment, tmp_path, "doctor", "--json").out)["checks"]
    (cure,) = [each["cure"] for each in checks if each["part"] == "database"]
    assert "KEYOSK_DATABASE_URL" not in cure


def test_an_upgrade_says_what_it_did(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "keyosk.app")
    environment = settings_for(database_url)

    def said() -> str:
        result = keyosk(environment, tmp_path, "database", "upgrade")
        assert result.code == 0
        return str(result.err)

    assert "made the database" in said()
    assert said() == ""
    database = Database(database_url)
    (newest,) = Runner(database.raw, str(schema.MIGRATIONS)).down()
    database.close()
    assert caplog.messages == []  # made, or unchanged
    assert re.search(rf"upgraded the database .* to {newest}\n", said())
    assert caplog.messages == [f"the database was upgraded to {newest}"]


def test_serve_with_another_secret_key_is_refused(database_url: str, tmp_path: Path) -> None:
    environment = settings_for(database_url)
    assert keyosk(environment, tmp_path, "database", "upgrade").code == 0
    before = keyosk(environment, tmp_path, "signing-key", "list", "--json").json
    environment |= {"KEYOSK_BIND": f"127.0.0.1:{free_port()}", "KEYOSK_METRICS_BIND": "off"}
    wrong = environment | {"KEYOSK_SECRET_KEY": "x" + SECRET_KEY}
    for arguments in (("serve",), ("database", "upgrade")):
        said = keyosk(wrong, tmp_path, *arguments).refused()
        assert "secret key does not open the private keys" in said
        assert "KEYOSK_SECRET_KEY" in said
        assert SECRET_KEY not in said
    both = environment | {"KEYOSK_SECRET_KEY": f"x{SECRET_KEY},{SECRET_KEY}"}
    assert keyosk(both, tmp_path, "database", "upgrade").code == 0
    assert keyosk(environment, tmp_path, "signing-key", "list", "--json").json == before


def test_a_database_that_does_not_answer_is_a_reason(tmp_path: Path) -> None:
    environment = settings_for("postgresql://keyosk:hidden-word@127.0.0.1:1/keyosk")
    for arguments in (("account", "list"), ("database", "upgrade")):
        said = keyosk(environment, tmp_path, *arguments).refused()
        assert "The database is not available" in said
        assert "hidden-word" not in said


@pytest.mark.slow
def test_the_installed_command_is_the_one_that_is_tested_here(server: LiveServer) -> None:
    shown = server.run("account", "show", "admin", "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(shown.stdout)["username"] == "admin"
    refused = server.run("account", "show", "nobody-at-all")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "keyosk: nobody-at-all: no such account\n"


@pytest.mark.slow
@pytest.mark.attack
def test_a_password_that_is_no_utf_8_is_refused_without_a_word_of_it(server: LiveServer) -> None:
    result = subprocess.run(
        command("account", "password", "admin"),
        cwd=server.folder,
        env=server.environment,
        input=b"rosebud \xff\xfe rosebud rosebud\n",
        capture_output=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.startswith(b"keyosk: password: ")
    assert b"rosebud" not in result.stderr


# --- serve ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="the line is for curl")
def test_the_first_start_prints_a_secret_once_and_a_curl_line_that_works_when_pasted(
    database_url: str, tmp_path: Path
) -> None:
    # A name that a shell would take apart if it were not quoted.
    chosen = {"admin_username": "o'neil&$co", "admin_password": ""}
    with LiveServer(database_url, tmp_path, **chosen) as server:
        said = server.log.read_text()
        [password] = re.findall(r"^    ((?:[a-z2-9]{5}-){5}[a-z2-9]{5})$", said, re.MULTILINE)
        [line] = re.findall(r"^    (curl .*)$", said, re.MULTILINE)
        pasted = execute(["bash", "-c", line], env={"PATH": os.environ["PATH"], "NO_PROXY": "*"})
        assert pasted.returncode == 0, pasted.stderr
        assert json.loads(pasted.stdout)["token_type"] == "Bearer"
        assert can_log_in(server, "o'neil&$co", password)
    server.start()
    try:
        said = server.log.read_text()
        assert said.count(password) == 2  # alone, and in the curl line: both at the first start
        assert said.count("The first account is") == 1
        assert can_log_in(server, "o'neil&$co", password)
    finally:
        assert server.stop() == 0
