import copy
import dataclasses
import os
import re
import traceback
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyosk.config import SETTINGS, Config, database_urls, load
from keyosk.config.addresses import Address, UnixAddress
from keyosk.config.database_urls import PostgresqlUrl
from keyosk.errors import ConfigurationError
from keyosk.keys import material
from keyosk.model import COMMON_ALGORITHMS
from tables import table

DOCS = Path(__file__).parent.parent / "docs" / "reference" / "configuration.md"
KEY = "k" * 43
OTHER_KEY = "o" * 44
PASSWORD = "correct horse battery"
POSTGRESQL = "postgresql://keyosk:hunter2@db.example:5432/keyosk"
REACHABLE = {"KEYOSK_BIND": "0.0.0.0:8080", "KEYOSK_ISSUER": "https://login.example.org"}
PKCS11 = {"KEYOSK_PKCS11_MODULE": "/lib/module.so", "KEYOSK_PKCS11_TOKEN": "keyosk"}
SECRET_NAMES = ["database_url", "secret_key", "admin_password", "pkcs11_pin"]
SECRETS = [row for row in SETTINGS if row.mask is not None]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, so that no file of the developer's is read."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def faults(environ: dict[str, str]) -> dict[str, str]:
    """The sentences that ``environ`` is refused with, by what they are about."""
    with pytest.raises(ConfigurationError) as caught:
        load(environ)
    by_field = {fault.field: fault.message for fault in caught.value.faults}
    assert len(by_field) == len(caught.value.faults), "nothing is told twice"
    return by_field


def refusal(name: str, value: str) -> str:
    """Why ``value`` is refused, where it is the only problem."""
    by_field = faults({name: value})
    assert list(by_field) == [name]
    return by_field[name]


def toml(folder: Path, text: str) -> None:
    (folder / "keyosk.toml").write_text(text, encoding="utf-8")


# --- Defaults -------------------------------------------------------------------------------------


def test_everything_works_with_nothing_set() -> None:
    config = load({}, cores=4)

    values = {row.name: getattr(config, row.name) for row in SETTINGS}
    assert values == {
        "bind": Address("127.0.0.1", 8080),
        "bind_mode": 0o660,
        "tls_certificate": None,
        "tls_key": None,
        "issuer": "http://127.0.0.1:8080",
        "database_url": "sqlite:///data/keyosk.db",
        "database_schema": None,
        "database_prepare_threshold": "auto",
        "secret_key": (),
        "admin_username": "admin",
        "admin_password": None,
        "workers": 4,
        "threads": 4,
        "shutdown_delay": 0,
        "signing_algorithm": "ES256",
        "pkcs11_module": None,
        "pkcs11_token": None,
        "pkcs11_pin": None,
        "token_lifetime": 900,
        "token_backdate": 0,
        "key_rotation_days": 90,
        "key_publish_ahead": 90_000,
        "key_retain": 900,
        "argon2_memory_kib": 19456,
        "argon2_time_cost": 2,
        "argon2_parallelism": 1,
        "trusted_proxies": (),
        "cors_origins": (),
        "metrics_bind": Address("127.0.0.1", 9464),
        "show_version": "on",
        "console": "on",
        "console_second_factor": "optional",
        "traces": "off",
        "log_level": "info",
        "log_format": "auto",
    }
    assert config.warnings == ()
    assert {source for _, _, source in config.describe()} == {"default"}


@table(("cores", "workers"), [(1, 2), (2, 2), (3, 3), (8, 8), (9, 8), (128, 8)])
def test_workers_follow_the_cores_within_bounds(cores: int, workers: int) -> None:
    assert load({}, cores=cores).workers == workers


def test_workers_follow_the_cores_of_this_process_when_not_told() -> None:
    assert load({}).workers == max(2, min(len(os.sched_getaffinity(0)), 8))


# --- Each rule ------------------------------------------------------------------------------------


@table(
    ("text", "host", "port", "shown"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080, "127.0.0.1:8080"),
        ("0.0.0.0:1", "0.0.0.0", 1, "0.0.0.0:1"),  # noqa: S104
        (":65535", "0.0.0.0", 65535, "0.0.0.0:65535"),  # noqa: S104
        ("[::1]:8080", "::1", 8080, "[::1]:8080"),
        ("[::]:8080", "::", 8080, "[::]:8080"),
        ("localhost:8080", "localhost", 8080, "localhost:8080"),
        ("node-1.example.org:80", "node-1.example.org", 80, "node-1.example.org:80"),
    ],
)
def test_bind_is_taken_apart(text: str, host: str, port: int, shown: str) -> None:
    config = load({"KEYOSK_BIND": text, "KEYOSK_ISSUER": "https://login.example.org"})
    assert (config.bind, str(config.bind)) == (Address(host, port), shown)


@table(
    "text",
    [
        "127.0.0.1", "8080", ":", ":0", ":65536", ":+80", ": 80", "::1:8080", "[::1]", "[::1]8080",
        "[127.0.0.1]:80", "[x]:80", "256.0.0.1:80", "1.2.3:80", "a..b:80", "-a:80", "a b:80",
        "http://127.0.0.1:80", "127.0.0.1:80/", "127.0.0.1:80\n", "*:80", ":٨٠",
    ],
)  # fmt: skip
def test_a_malformed_bind_is_refused(text: str) -> None:
    assert "host:port" in refusal("KEYOSK_BIND", text)


def test_a_unix_socket_needs_an_issuer_and_a_word_on_who_its_clients_are() -> None:
    assert list(faults({"KEYOSK_BIND": "unix:/run/keyosk.sock"})) == ["KEYOSK_ISSUER"]
    environ = {"KEYOSK_BIND": "unix:/run/k", "KEYOSK_ISSUER": "https://login.example.org"}
    config = load(environ)
    assert (config.bind, str(config.bind)) == (UnixAddress("/run/k"), "unix:/run/k")
    assert "count as one" in config.warnings[0]
    config = load(environ | {"KEYOSK_TRUSTED_PROXIES": "unix, 10.0.0.1", "KEYOSK_BIND_MODE": "666"})
    assert config.warnings == ()
    assert config.trusted_proxies == ("unix", ip_network("10.0.0.1"))
    assert config.bind_mode == 0o666
    assert ("KEYOSK_BIND_MODE", "0666", "environment") in config.describe()
    tls = {"KEYOSK_TLS_CERTIFICATE": "a", "KEYOSK_TLS_KEY": "b"}
    assert "Unix socket" in faults(environ | tls)["KEYOSK_TLS_CERTIFICATE"]


@table("text", ["unix:", "unix:run/k", "unix:@k", "unix:/run/", "unix:/" + "k" * 107, "unix:/\0"])
def test_a_malformed_unix_socket_is_refused(text: str) -> None:
    assert "path" in refusal("KEYOSK_BIND", text)


@table("text", ["", "66", "8", "0o660", "1777", "rw-rw----", "０660"])
def test_a_malformed_mode_is_refused(text: str) -> None:
    if text:
        assert "octal" in refusal("KEYOSK_BIND_MODE", text)


def test_tls_makes_the_issuer_https_and_needs_both_files() -> None:
    config = load({"KEYOSK_TLS_CERTIFICATE": "a.pem", "KEYOSK_TLS_KEY": "b.pem"})
    assert config.issuer == "https://127.0.0.1:8080"
    assert faults({"KEYOSK_TLS_KEY": "b.pem"}) == {
        "KEYOSK_TLS_CERTIFICATE": "is required with KEYOSK_TLS_KEY"
    }
    assert list(faults({"KEYOSK_TLS_CERTIFICATE": "a.pem"})) == ["KEYOSK_TLS_KEY"]


def test_metrics_have_a_port_of_their_own_or_none() -> None:
    assert "host:port" in refusal("KEYOSK_METRICS_BIND", "unix:/run/k")
    assert load({"KEYOSK_METRICS_BIND": "off"}).metrics_bind == "off"
    assert load({"KEYOSK_METRICS_BIND": "[::1]:9000"}).metrics_bind == Address("::1", 9000)
    assert "host:port" in refusal("KEYOSK_METRICS_BIND", "Off")
    assert "another port than KEYOSK_BIND" in refusal("KEYOSK_METRICS_BIND", "127.0.0.1:8080")


@table("bind", ["127.0.0.1:80", "127.9.9.9:80", "[::1]:80", "LocalHost:80"])
def test_the_issuer_follows_a_loopback_bind(bind: str) -> None:
    config = load({"KEYOSK_BIND": bind})
    assert config.issuer == f"http://{bind}"
    assert config.bind.is_loopback
    assert config.warnings == ()


@table("bind", [":80", "0.0.0.0:80", "[::]:80", "10.0.0.1:80", "login.test:80"])
def test_the_issuer_is_required_once_others_can_reach_it(bind: str) -> None:
    assert "is required" in faults({"KEYOSK_BIND": bind})["KEYOSK_ISSUER"]


@table(
    "issuer",
    [
        "https://login.example.org", "https://login.example.org:8443", "https://example.org/login",
        "https://example.org/a/b", "https://10.0.0.1", "https://[2001:db8::1]:8443",
        "https://Login.Example.ORG", "https://example.org:443", "https://example.org/a%20b",
        "https://example.org/@me", "https://xn--exmple-cua.org", "https://login",
    ],
)  # fmt: skip
def test_an_issuer_is_kept_letter_by_letter(issuer: str) -> None:
    config = load({"KEYOSK_ISSUER": issuer})
    assert config.issuer == issuer
    assert config.warnings == ()


@table(
    "issuer",
    [
        "login.example.org", "ftp://example.org", "HTTPS://example.org", "https://", "https:///a",
        "https://example.org/", "https://example.org/a/", "https://example.org//a",
        "https://example.org?", "https://example.org?a=b", "https://example.org#",
        "https://example.org/a#b", "https://u@example.org", "https://u:p@example.org",
        "https://example.org:0", "https://example.org:99999", "https://example.org:",
        "https://exa mple.org", "https://example.org\n", "https://\texample.org", "https://[::1",
        "https://[x]", "https://999.1.1.1", "https://ex_ample.org", "https://exämple.org",
        "https://@example.org", "https://:@example.org", "https://example.org@evil.org",
        "https://example.org:8443:1", "https://example.org:+1", "https://example.org:٤٤٣",
        "https://example.org:000443", "https:example.org", "https:/example.org", "//example.org",
        "https://example.org\\a", "https://example.org/a b", "https://example.org/ä",
        "https://example.org/a/../b", "https://example.org/.", "https://example.org/a%2e%2e%zz",
        "https://example.org/%2E%2e/b", "https://example.org/a%", "https://example.org/a%2",
        "https://example.org/<a>", 'https://example.org/"', "https://example.org/a?", " https://a",
        "https://example.org ", "https://[2001:db8::1%25eth0]", "https://[10.0.0.1]", "https://::1",
        "https://[::1]x", "https://example.org/\x00", "https://example.org/a\r\nb",
        "https://.example.org", "https://example..org", "https://-a.org", "https://example.org.",
    ],
)  # fmt: skip
def test_a_malformed_issuer_is_refused(issuer: str) -> None:
    assert "http:// or https:// URL" in refusal("KEYOSK_ISSUER", issuer)


@table(
    ("bind", "issuer", "warns"),
    [
        (":8080", "http://login.example.org", True),
        (":8080", "http://localhost:8080", True),
        ("127.0.0.1:8080", "http://login.example.org", True),
        ("127.0.0.1:8080", "http://localhost:8080", False),
        ("[::1]:8080", "http://[::1]:8080", False),
        (":8080", "https://login.example.org", False),
    ],
)
def test_an_issuer_in_the_clear_has_a_warning(bind: str, issuer: str, *, warns: bool) -> None:
    config = load({"KEYOSK_BIND": bind, "KEYOSK_ISSUER": issuer})
    assert [text.split()[0] for text in config.warnings] == ["KEYOSK_ISSUER"] * warns


@table(
    ("given", "kept"),
    [
        ("sqlite:///data/keyosk.db", "sqlite:///data/keyosk.db"),
        ("sqlite:////var/lib/key osk/ü%20.db", "sqlite:////var/lib/key osk/ü%20.db"),
        ("postgresql://db/keyosk", "postgresql://db/keyosk"),
        ("postgres://u:p@db/keyosk", "postgresql://u:p@db/keyosk"),
        ("postgresql:///keyosk", "postgresql:///keyosk"),
        ("postgresql://u@%2Frun%2Fpg/keyosk", "postgresql://u@%2Frun%2Fpg/keyosk"),
        ("postgresql://[::1]:5432/k?sslmode=require", "postgresql://[::1]:5432/k?sslmode=require"),
        ("postgresql://a:1,b:2/k", "postgresql://a:1,b:2/k"),
        # The user's name and the password may be any word.
        ("postgresql://postgres:postgres@db/k", "postgresql://postgres:postgres@db/k"),
        ("postgres://postgres:xpostgres:@db/k", "postgresql://postgres:xpostgres:@db/k"),
        ("postgresql:///k?host=/run/postgresql", "postgresql:///k?host=/run/postgresql"),
        ("postgresql://db?dbname=k", "postgresql://db?dbname=k"),
        ("postgresql://db/k?ssl=true", "postgresql://db/k?ssl=true"),
        ("sqlite:///postgres:/k.db", "sqlite:///postgres:/k.db"),
    ],
)
def test_a_database_url_is_taken(given: str, kept: str) -> None:
    assert load({"KEYOSK_DATABASE_URL": given, "KEYOSK_SECRET_KEY": KEY}).database_url == kept


@table(
    ("url", "reason"),
    [
        ("sqlite://", "in memory"),
        ("sqlite:///", "in memory"),
        ("sqlite://:memory:", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///file::memory:?cache=shared", "in memory"),
        ("sqlite://data/keyosk.db", "sqlite:///relative"),
        ("sqlite:data/keyosk.db", "sqlite:///relative"),
        ("sqlite:///data/", "sqlite:///relative"),
        ("sqlite:///data/k.db?mode=memory", "sqlite:///relative"),
        ("sqlite:///data/k.db#x", "sqlite:///relative"),
        ("sqlite:///~/k.db", "only shells replace"),
        ("sqlite:///~keyosk/k.db", "only shells replace"),
        ("sqlite:///$HOME/k.db", "only shells replace"),
        ("sqlite:////${DATA}/k.db", "only shells replace"),
        ("sqlite:///data/k\n.db", "sqlite:///relative"),
        ("data/keyosk.db", "must begin with"),
        ("mysql://db/keyosk", "must begin with"),
        ("sqlite3:///data/k.db", "must begin with"),
        ("SQLITE:///data/k.db", "must begin with"),
        ("postgresql+psycopg://db/keyosk", "must begin with"),
        ("postgresql:keyosk", "percent codes"),
        ("postgresql://db", "percent codes"),
        ("postgresql://db/", "percent codes"),
        ("postgresql://db/a/b", "percent codes"),
        ("postgresql://db/k#x", "percent codes"),
        ("postgresql://u:p@ss@db/k", "percent codes"),
        ("postgresql://u:pa/ss@db/k", "percent codes"),
        ("postgresql://u:pa?ss@db/k", "percent codes"),
        ("postgresql://u:pa#ss@db/k", "percent codes"),
        ("postgresql://u:pass/k", "percent codes"),  # the host was forgotten
        ("postgresql://db/k ", "percent codes"),
        ("postgresql://db:99x/k", "percent codes"),
        ("postgresql://[::1/k", "percent codes"),
        ("postgresql://u%00:p@db/k", "percent codes"),
        ("postgresql://u:p%4@db/k", "percent codes"),
        ("postgresql://u:p%ff@db/k", "not UTF-8"),
        ("postgresql://db/k?sslmode", "name=value"),
        ("postgresql://db/k?schema=auth", "the parameter schema"),
        ("postgresql://db/k?schema=auth", "KEYOSK_DATABASE_SCHEMA"),
        ("postgresql://db/k?replication=database", "the parameter replication"),
        ("postgresql://db/k?host=other", "host twice"),
        ("postgresql://db/k?connect_timeout=0", "connect_timeout"),
        ("postgresql://db/k?client_encoding=LATIN1", "client_encoding"),
        ("sqlite:///k.db?mode=ro", "the parameter mode"),
    ],
)
def test_a_bad_database_url_is_refused_with_the_reason(url: str, reason: str) -> None:
    assert reason in refusal("KEYOSK_DATABASE_URL", url)


@table(
    ("url", "parameters"),
    [
        (
            "postgresql://postgres:a%40b%3Ac%2Fd%3Fe@[::1]:5433/k?application_name=x%20y",
            "user=postgres password=a@b:c/d?e host=::1 port=5433 dbname=k application_name=x y",
        ),
        ("postgres://a:1,b/k", "host=a,b port=1, dbname=k"),
        ("postgresql://u@%2Frun%2Fpg/k", "user=u host=/run/pg dbname=k"),
        ("postgresql:///k?host=/run/pg&ssl=true", "host=/run/pg sslmode=require dbname=k"),
    ],
)
def test_libpq_is_told_what_the_url_says(url: str, parameters: str) -> None:
    parsed = database_urls.parse(url)
    assert isinstance(parsed, PostgresqlUrl)
    assert parsed.parameters == dict(re.findall(r"(\w+)=(.*?)(?= \w+=|$)", parameters))


def test_a_schema_is_for_postgresql_and_one_name() -> None:
    postgresql = {"KEYOSK_DATABASE_URL": POSTGRESQL, "KEYOSK_SECRET_KEY": KEY}
    assert load({**postgresql, "KEYOSK_DATABASE_SCHEMA": "auth"}).database_schema == "auth"
    assert "PostgreSQL only" in refusal("KEYOSK_DATABASE_SCHEMA", "auth")
    for name in ("a" * 64, "a\nb"):
        by_field = faults({**postgresql, "KEYOSK_DATABASE_SCHEMA": name})
        assert "one schema" in by_field["KEYOSK_DATABASE_SCHEMA"]


@table(("text", "value"), [("auto", "auto"), ("off", "off"), ("0", 0), ("9", 9)])
def test_when_statements_are_prepared_is_a_number_or_a_word(text: str, value: int | str) -> None:
    postgresql = {"KEYOSK_DATABASE_URL": "postgresql://db/k", "KEYOSK_SECRET_KEY": "k" * 43}
    name = "KEYOSK_DATABASE_PREPARE_THRESHOLD"
    assert load({**postgresql, name: text}).database_prepare_threshold == value
    assert "PostgreSQL only" in refusal(name, text)
    for wrong in ("-1", "1001", "never", "1.5"):
        assert "must be auto, off" in faults({**postgresql, name: wrong})[name]


def test_a_secret_key_is_required_with_postgresql() -> None:
    by_field = faults({"KEYOSK_DATABASE_URL": POSTGRESQL})
    assert list(by_field) == ["KEYOSK_SECRET_KEY"]
    assert "PostgreSQL" in by_field["KEYOSK_SECRET_KEY"]


def test_secret_keys_keep_their_order() -> None:
    assert load({"KEYOSK_SECRET_KEY": f"{KEY}, {OTHER_KEY},"}).secret_key == (KEY, OTHER_KEY)


def test_a_key_that_keyosk_makes_is_good_enough() -> None:
    key = material.new_secret_key()
    assert load({"KEYOSK_SECRET_KEY": key}).secret_key == (key,)


@table("text", ["k" * 42, f"{KEY},short", f"{'k' * 30} {'k' * 30}", f"{KEY}\n{KEY}", ",", " "])
def test_a_weak_or_broken_secret_key_is_refused(text: str) -> None:
    assert "43 characters" in refusal("KEYOSK_SECRET_KEY", text)


NUMBERS = [
    ("workers", 1, 64),
    ("threads", 1, 64),
    ("token_lifetime", 30, 86_400),
    ("token_backdate", 0, 5),
    ("key_rotation_days", 0, 3_650),
    ("key_publish_ahead", 1, 604_800),
    ("key_retain", 0, 604_800),
    ("argon2_memory_kib", 19_456, 1_048_576),
    ("argon2_time_cost", 2, 20),
    ("argon2_parallelism", 1, 16),
]


@pytest.mark.parametrize(("name", "low", "high"), NUMBERS)
def test_a_number_keeps_within_its_bounds(name: str, low: int, high: int, folder: Path) -> None:
    variable = f"KEYOSK_{name.upper()}"
    for good in (low, high):
        assert getattr(load({variable: str(good)}), name) == good
    for bad in (
        str(low - 1),
        str(high + 1),
        "-1",
        f"{low}.0",
        f" {low}",
        "1_0",
        "٤",
        "x",
        "9" * 5000,
    ):
        assert refusal(variable, bad) == f"must be a whole number from {low} to {high}"
    for toml_value in (f"{low}.5", "true", "[1]", "nan"):
        toml(folder, f"{name} = {toml_value}")
        assert faults({}) == {
            f"keyosk.toml: {name}": f"must be a whole number from {low} to {high}"
        }


def test_every_signing_algorithm_of_the_keyring_can_be_chosen() -> None:
    for algorithm in COMMON_ALGORITHMS:
        assert load({"KEYOSK_SIGNING_ALGORITHM": algorithm}).signing_algorithm == algorithm
    text = refusal("KEYOSK_SIGNING_ALGORITHM", "HS256")
    assert text == f"must be one of {', '.join(COMMON_ALGORITHMS)}"


@table("text", ["none", "es256", "ES256 "])
def test_another_signing_algorithm_is_refused(text: str) -> None:
    assert "must be one of" in refusal("KEYOSK_SIGNING_ALGORITHM", text)


def test_a_log_level_is_one_of_four() -> None:
    assert load({"KEYOSK_LOG_LEVEL": "debug"}).log_level == "debug"
    assert refusal("KEYOSK_LOG_LEVEL", "trace") == "must be one of debug, info, warning, error"


def test_trusted_proxies_are_networks() -> None:
    config = load({"KEYOSK_TRUSTED_PROXIES": "10.0.0.0/8, ::1 ,192.0.2.7"})
    assert config.trusted_proxies == (
        ip_network("10.0.0.0/8"),
        ip_network("::1/128"),
        ip_network("192.0.2.7/32"),
    )


@table(
    ("text", "network"),
    [
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("64:ff9b::/96", "64:ff9b::/96"),
    ],
)
def test_a_proxy_with_ipv4_in_ipv6_is_one_with_ipv4(text: str, network: str) -> None:
    assert load({"KEYOSK_TRUSTED_PROXIES": text}).trusted_proxies == (ip_network(network),)


@table("text", ["10.0.0.1/8", "10.0.0.0/33", "proxy.example", "*", "::1,x"])
def test_a_proxy_that_is_no_network_is_refused(text: str) -> None:
    assert "IP addresses or networks" in refusal("KEYOSK_TRUSTED_PROXIES", text)


def test_origins_are_as_browsers_send_them() -> None:
    text = "https://app.example.org, http://localhost:3000,https://[::1]:8443"
    config = load({"KEYOSK_CORS_ORIGINS": text})
    assert config.cors_origins == tuple(text.replace(" ", "").split(","))


@table(
    "text",
    [
        *("*", "null", "app.example.org", "https://app.example.org/", "https://App.example.org"),
        *("https://*.example.org", "https://app.example.org:443", "http://app.example.org:80"),
        *("ftp://app.example.org", "https://me@app.example.org", "https://", "HTTPS://app.org"),
        *("https://app.example.org?x", "https://app.example.org#x", "https://a b"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(text: str) -> None:
    assert "origins as browsers send them" in refusal("KEYOSK_CORS_ORIGINS", text)


def test_the_admin_can_be_chosen() -> None:
    config = load({"KEYOSK_ADMIN_USERNAME": "Zoë", "KEYOSK_ADMIN_PASSWORD": f" {PASSWORD} "})
    assert (config.admin_username, config.admin_password) == ("Zoë", f" {PASSWORD} ")


@table("text", ["a:b", "a b", " ", "a\n"])
def test_an_admin_username_that_cannot_log_in_is_refused(text: str) -> None:
    assert "one word" in refusal("KEYOSK_ADMIN_USERNAME", text)


@table("length", [1, 14, 1025])
def test_an_admin_password_of_the_wrong_length_is_refused(length: int) -> None:
    assert "15 to 1024" in refusal("KEYOSK_ADMIN_PASSWORD", "x" * length)


@table(
    ("given", "missing"),
    [
        (["MODULE"], ["TOKEN", "PIN"]),
        (["PIN"], ["MODULE", "TOKEN"]),
        (["MODULE", "PIN"], ["TOKEN"]),
        (["TOKEN", "PIN"], ["MODULE"]),
    ],
)
def test_settings_for_pkcs11_are_given_all_or_none(given: list[str], missing: list[str]) -> None:
    by_field = faults({f"KEYOSK_PKCS11_{name}": "x" for name in given})
    assert list(by_field) == [f"KEYOSK_PKCS11_{name}" for name in missing]
    assert all("is required" in message for message in by_field.values())


@table("row", SETTINGS, ids=lambda row: row.name)
@table("value", ["{a = 1}", "1979-05-27", "[[1]]", "[{}]", "''"])
def test_a_value_of_the_wrong_type_is_refused(row: Any, value: str, folder: Path) -> None:
    toml(folder, f"{row.name} = {value}")
    if row.name in ("trusted_proxies", "cors_origins") and value == "''":
        assert getattr(load({}), row.name) == ()
    else:
        assert list(faults({})) == [f"keyosk.toml: {row.name}"]


def test_an_environment_that_is_no_text_is_refused() -> None:
    bytes_that_are_no_text = os.fsdecode(b"correct horse \xff battery")
    assert refusal("KEYOSK_ADMIN_PASSWORD", bytes_that_are_no_text) == "must be UTF-8"


# --- Names ----------------------------------------------------------------------------------------


@table(
    ("name", "meant"),
    [
        ("KEYOSK_ISSUR", "KEYOSK_ISSUER"),
        ("KEYOSK_DATABASE", "KEYOSK_DATABASE_URL"),
        ("KEYOSK_SECRET_KEYFILE", "KEYOSK_SECRET_KEY_FILE"),
        ("KEYOSK_Bind", "KEYOSK_BIND"),
        ("KEYOSK_CONFIG_", "KEYOSK_CONFIG"),
        ("KEYOSK_HOST", "KEYOSK_BIND"),
        ("KEYOSK_LISTEN", "KEYOSK_BIND"),
        ("KEYOSK_BASE_URL", "KEYOSK_ISSUER"),
        ("KEYOSK_TLS_CERT", "KEYOSK_TLS_CERTIFICATE"),
    ],
)
@table("value", ["x", ""])
def test_an_unknown_variable_is_refused_with_the_nearest(name: str, meant: str, value: str) -> None:
    assert refusal(name, value) == f"is unknown; did you mean {meant}?"


@table("name", ["KEYOSK_", "KEYOSK_XYZZY", "KEYOSK_BIND_FILE_", "KEYOSK_MAX_BODY"])
def test_an_unknown_variable_is_refused_without_one(name: str) -> None:
    assert refusal(name, "x").startswith("is unknown")


def test_only_a_secret_may_come_from_a_file_of_its_own() -> None:
    assert [row.name for row in SECRETS] == SECRET_NAMES
    assert refusal("KEYOSK_BIND_FILE", "x").startswith("is unknown")


@table(
    "name",
    ["KEYOSK_PORT", "KEYOSK_SERVICE_HOST", "KEYOSK_SERVICE_PORT_HTTP", "KEYOSK_PORT_8080_TCP_ADDR"],
)
def test_a_variable_of_kubernetes_is_refused_with_the_cure(name: str) -> None:
    assert "enableServiceLinks" in refusal(name, "tcp://10.0.0.1:8080")


def test_a_port_may_be_meant_for_keyosk() -> None:
    assert "KEYOSK_BIND" in refusal("KEYOSK_PORT", "8081")


def test_a_file_called_env_is_an_environment_file(folder: Path) -> None:
    (folder / ".env").write_text("KEYOSK_THREADS=7\n")
    assert load({"KEYOSK_CONFIG": ".env"}).threads == 7


def test_a_name_of_another_case_in_an_environment_file_is_refused(folder: Path) -> None:
    (folder / "keyosk.env").write_text("keyosk_threads=7\nKEYOSK_BIND=\npath=/bin\n")
    assert faults({"KEYOSK_CONFIG": "keyosk.env"}) == {
        "keyosk.env: keyosk_threads": "is unknown; did you mean KEYOSK_THREADS?"
    }


def test_a_file_called_env_that_nobody_named_is_not_read_and_that_is_told(folder: Path) -> None:
    (folder / ".env").write_text("OTHER=1\nexport KEYOSK_THREADS=7\n")
    config = load({})
    assert config.threads == 4
    [warning] = config.warnings
    assert "--config .env" in warning
    # Whoever starts Keyosk may have read it, as docker compose does.
    assert load({"KEYOSK_THREADS": "7"}).warnings == ()
    assert load({"KEYOSK_CONFIG": ".env"}).warnings == ()
    (folder / ".env").write_text("OTHER=1\n")
    assert load({}).warnings == ()


def test_variables_of_others_are_left_alone() -> None:
    assert load({"PATH": "/bin", "KEYOSKX": "1", "keyosk_bind": "x", "XKEYOSK_BIND": "x"}) == load(
        {}
    )


def test_an_unknown_key_in_the_file_is_refused_with_the_nearest_name(folder: Path) -> None:
    toml(folder, "isuer = 'x'\nconfig = 'x'\nKEYOSK_BIND = ':1'\n[server]\nbind = ':1'\n")
    assert faults({}) == {
        "keyosk.toml: isuer": "is unknown; did you mean issuer?",
        "keyosk.toml: config": "is unknown",
        "keyosk.toml: KEYOSK_BIND": "is unknown; did you mean bind?",
        "keyosk.toml: server": "is unknown",
    }


# --- Precedence and files -------------------------------------------------------------------------


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(folder: Path) -> None:
    toml(folder, "token_lifetime = 60\nthreads = 2\n")
    config = load({"KEYOSK_TOKEN_LIFETIME": "90"})
    assert (config.token_lifetime, config.threads, config.log_level) == (90, 2, "info")
    sources = {name: source for name, _, source in config.describe()}
    assert sources["KEYOSK_TOKEN_LIFETIME"] == "environment"
    assert sources["KEYOSK_THREADS"] == "file keyosk.toml"
    assert sources["KEYOSK_LOG_LEVEL"] == "default"


def test_what_the_environment_overrides_need_not_be_right(folder: Path) -> None:
    toml(folder, "token_lifetime = 1\n")
    assert load({"KEYOSK_TOKEN_LIFETIME": "90"}).token_lifetime == 90


def test_an_empty_variable_is_not_set(folder: Path) -> None:
    toml(folder, "threads = 2\n")
    empty = {
        f"KEYOSK_{name}": "" for name in ("THREADS", "SECRET_KEY", "SECRET_KEY_FILE", "CONFIG")
    }
    assert load(empty).threads == 2


def test_the_file_may_hold_numbers_lists_and_text(folder: Path) -> None:
    toml(
        folder,
        f"token_lifetime = 60\nthreads = '2'\nsecret_key = ['{KEY}', '{OTHER_KEY}']\n"
        "trusted_proxies = ['10.0.0.0/8', '::1']\n",
    )
    config = load({})
    assert (config.token_lifetime, config.threads) == (60, 2)
    assert config.secret_key == (KEY, OTHER_KEY)
    assert len(config.trusted_proxies) == 2


def test_the_named_file_is_read_instead_of_the_usual_one(folder: Path) -> None:
    toml(folder, "threads = 2\n")
    (folder / "other.toml").write_text("workers = 3\n")
    config = load({"KEYOSK_CONFIG": str(folder / "other.toml")}, cores=2)
    assert (config.workers, config.threads) == (3, 4)
    assert ("KEYOSK_WORKERS", "3", f"file {folder / 'other.toml'}") in config.describe()


def test_the_named_file_must_exist() -> None:
    assert refusal("KEYOSK_CONFIG", "gone.toml") == "there is no file gone.toml"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"bind = 'x\nsecret_key = 'sentinel'", r"keyosk\.toml is not TOML \(at line 1, .+\)"),
        (b"bind = 1\nbind = 2", r"keyosk\.toml is not TOML \(at .+\)"),
        (b"bind =", r"keyosk\.toml is not TOML.*"),
        (b"bind = '\xff'", r"keyosk\.toml is not UTF-8"),
        (b"bind = " + b"[" * 100_000, r"keyosk\.toml is nested too deeply, or .+"),
        (b"workers = " + b"9" * 5_000, r"keyosk\.toml is .+, or has a number with too many digits"),
    ],
)
def test_a_file_that_nobody_understands_is_refused(content: bytes, said: str, folder: Path) -> None:
    (folder / "keyosk.toml").write_bytes(content)
    by_field = faults({})
    assert list(by_field) == ["KEYOSK_CONFIG"]
    assert re.fullmatch(said, by_field["KEYOSK_CONFIG"])


def test_a_byte_order_mark_became_a_part_of_the_secret_key(folder: Path) -> None:
    """What was encrypted under the key with the mark can still be read."""
    (folder / "secret").write_text(f"\ufeff{KEY}\r\n")
    expected = (KEY, f"\ufeff{KEY}")
    assert load({"KEYOSK_SECRET_KEY_FILE": "secret"}).secret_key == expected
    assert load({"KEYOSK_SECRET_KEY": f"\ufeff{KEY}"}).secret_key == expected


def test_a_settings_file_may_begin_with_a_byte_order_mark(folder: Path) -> None:
    (folder / "keyosk.toml").write_text("\ufeffthreads = 2\n")
    assert load({}).threads == 2


@table("mark", ["'", '"'])
def test_quotes_that_docker_keeps_are_told_of_without_the_value(mark: str) -> None:
    config = load({"KEYOSK_SECRET_KEY": f"{mark}{KEY}{mark}"})
    said = [warning for warning in config.warnings if "KEYOSK_SECRET_KEY" in warning]
    assert len(said) == 1
    assert "quotation marks" in said[0]
    assert KEY not in said[0]
    assert "quotation marks" in faults({"KEYOSK_THREADS": f"{mark}2{mark}"})["KEYOSK_THREADS"]


def test_a_file_that_cannot_be_read_is_refused_even_if_nobody_named_it(folder: Path) -> None:
    (folder / "keyosk.toml").mkdir()
    assert faults({}) == {"KEYOSK_CONFIG": "cannot read keyosk.toml: Is a directory"}
    said = "cannot read /dev/zero: it has more than 1 MiB"
    assert faults({"KEYOSK_CONFIG": "/dev/zero"}) == {"KEYOSK_CONFIG": said}


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (PASSWORD, PASSWORD),
        (f"{PASSWORD}\n", PASSWORD),
        (f"{PASSWORD}\r\n", PASSWORD),
        (f"{PASSWORD}\n\n", PASSWORD),
        (f" {PASSWORD} ", PASSWORD),
        (f"\ufeff{PASSWORD}\r\n", PASSWORD),
    ],
)
def test_a_secret_file_gives_its_content_without_mark_and_white_space(
    content: str, password: str, folder: Path
) -> None:
    secret = folder / "secret"
    secret.write_bytes(content.encode())
    secret.chmod(0o444)  # as containers mount them
    by_variable = load({"KEYOSK_ADMIN_PASSWORD_FILE": "secret"})
    toml(folder, "admin_password_file = 'secret'\n")
    for config in (by_variable, load({})):
        assert config.admin_password == password
        assert ("KEYOSK_ADMIN_PASSWORD", "***", "file secret") in config.describe()


@pytest.mark.parametrize("row", SECRETS, ids=lambda row: row.name)
def test_every_secret_may_come_from_a_file(row: Any, folder: Path) -> None:
    value = dict(zip(SECRET_NAMES, ("sqlite:///x.db", KEY, PASSWORD, "1234"), strict=True))
    others = PKCS11 if row.name == "pkcs11_pin" else {}
    (folder / "secret").write_text(value[row.name])
    assert getattr(load({**others, f"{row.variable}_FILE": "secret"}), row.name) == getattr(
        load({**others, row.variable: value[row.name]}), row.name
    )


def test_a_secret_file_may_hold_a_list(folder: Path) -> None:
    (folder / "secret").write_text(f"{KEY},\n{OTHER_KEY}\n")
    assert load({"KEYOSK_SECRET_KEY_FILE": "secret"}).secret_key == (KEY, OTHER_KEY)


def test_both_forms_of_a_secret_in_one_place_are_refused(folder: Path) -> None:
    (folder / "secret").write_text(KEY)
    toml(folder, f"secret_key_file = 'secret'\nsecret_key = '{KEY}'\n")
    assert faults({"KEYOSK_SECRET_KEY": KEY, "KEYOSK_SECRET_KEY_FILE": "secret"}) == {
        "KEYOSK_SECRET_KEY_FILE": "is also given as KEYOSK_SECRET_KEY; keep one",
        "keyosk.toml: secret_key": "is also given as keyosk.toml: secret_key_file; keep one",
    }


def test_a_secret_in_the_environment_wins_over_a_secret_file_of_the_toml_file(folder: Path) -> None:
    (folder / "secret").write_text(KEY)
    toml(folder, "secret_key_file = 'secret'\n")
    assert load({"KEYOSK_SECRET_KEY": OTHER_KEY}).secret_key == (OTHER_KEY,)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("gone", "cannot read the file: No such file or directory"),
        (".", "cannot read the file: Is a directory"),
        ("/dev/zero", "cannot read the file: it has more than 1 MiB"),
        ("empty", "the file is empty"),
        ("newline", "the file is empty"),
        ("bytes", "the file must be UTF-8 text"),
    ],
)
def test_an_unusable_secret_file_is_said_plainly_once(path: str, said: str, folder: Path) -> None:
    (folder / "empty").touch()
    (folder / "newline").write_text("\n")
    (folder / "bytes").write_bytes(b"\xff" * 50)
    # Not a second time as a missing key of PostgreSQL.
    environ = {"KEYOSK_DATABASE_URL": POSTGRESQL, "KEYOSK_SECRET_KEY_FILE": path}
    assert faults(environ) == {"KEYOSK_SECRET_KEY_FILE": said}


@pytest.mark.parametrize("value", ["1", "['a']", '"\\u0000"', '"\\u0000a"'])
def test_a_path_that_is_none_is_refused(value: str, folder: Path) -> None:
    toml(folder, f"secret_key_file = {value}\n")
    assert list(faults({})) == ["keyosk.toml: secret_key_file"]


# --- All at once ----------------------------------------------------------------------------------


def test_all_problems_are_told_at_once(folder: Path) -> None:
    toml(folder, "threads = 0\nlog_levl = 'info'\nadmin_password_file = 'gone'\n")
    by_field = faults(
        {
            "KEYOSK_BIND": ":8080",
            "KEYOSK_DATABASE_URL": POSTGRESQL,
            "KEYOSK_TOKEN_LIFETIME": "5",
            "KEYOSK_TRUSTED_PROXIES": "x",
            "KEYOSK_PASSWORD": "x",
        }
    )
    assert set(by_field) == {
        "keyosk.toml: threads",
        "keyosk.toml: log_levl",
        "keyosk.toml: admin_password_file",
        "KEYOSK_TOKEN_LIFETIME",
        "KEYOSK_TRUSTED_PROXIES",
        "KEYOSK_PASSWORD",
        "KEYOSK_ISSUER",  # required by another setting
        "KEYOSK_SECRET_KEY",  # the same
    }


def test_a_broken_setting_has_no_followers() -> None:
    assert list(faults({"KEYOSK_BIND": "x", "KEYOSK_DATABASE_URL": "x"})) == [
        "KEYOSK_BIND",
        "KEYOSK_DATABASE_URL",
    ]
    assert list(faults({"KEYOSK_BIND": ":80", "KEYOSK_ISSUER": "x"})) == ["KEYOSK_ISSUER"]


# --- Secrets --------------------------------------------------------------------------------------


def test_describe_masks_secrets_and_shows_the_rest() -> None:
    config = load(
        {
            **REACHABLE,
            "KEYOSK_DATABASE_URL": POSTGRESQL,
            "KEYOSK_SECRET_KEY": KEY,
            "KEYOSK_ADMIN_PASSWORD": PASSWORD,
            "KEYOSK_TRUSTED_PROXIES": "10.0.0.0/8,::1",
            **PKCS11,
            "KEYOSK_PKCS11_PIN": "1234",
        },
        cores=2,
    )
    assert config.describe() == [
        ("KEYOSK_BIND", "0.0.0.0:8080", "environment"),
        ("KEYOSK_BIND_MODE", "0660", "default"),
        ("KEYOSK_TLS_CERTIFICATE", "none", "default"),
        ("KEYOSK_TLS_KEY", "none", "default"),
        ("KEYOSK_ISSUER", "https://login.example.org", "environment"),
        ("KEYOSK_DATABASE_URL", "postgresql://keyosk:***@db.example:5432/keyosk", "environment"),
        ("KEYOSK_DATABASE_SCHEMA", "the first of the search path, mostly public", "default"),
        ("KEYOSK_DATABASE_PREPARE_THRESHOLD", "auto", "default"),
        ("KEYOSK_SECRET_KEY", "***", "environment"),
        ("KEYOSK_ADMIN_USERNAME", "admin", "default"),
        ("KEYOSK_ADMIN_PASSWORD", "***", "environment"),
        ("KEYOSK_WORKERS", "2", "default"),
        ("KEYOSK_THREADS", "4", "default"),
        ("KEYOSK_SHUTDOWN_DELAY", "0", "default"),
        ("KEYOSK_SIGNING_ALGORITHM", "ES256", "default"),
        ("KEYOSK_PKCS11_MODULE", "/lib/module.so", "environment"),
        ("KEYOSK_PKCS11_TOKEN", "keyosk", "environment"),
        ("KEYOSK_PKCS11_PIN", "***", "environment"),
        ("KEYOSK_TOKEN_LIFETIME", "900", "default"),
        ("KEYOSK_TOKEN_BACKDATE", "0", "default"),
        ("KEYOSK_KEY_ROTATION_DAYS", "90", "default"),
        ("KEYOSK_KEY_PUBLISH_AHEAD", "90000", "default"),
        ("KEYOSK_KEY_RETAIN", "900", "default"),
        ("KEYOSK_ARGON2_MEMORY_KIB", "19456", "default"),
        ("KEYOSK_ARGON2_TIME_COST", "2", "default"),
        ("KEYOSK_ARGON2_PARALLELISM", "1", "default"),
        ("KEYOSK_TRUSTED_PROXIES", "10.0.0.0/8, ::1/128", "environment"),
        ("KEYOSK_CORS_ORIGINS", "none", "default"),
        ("KEYOSK_METRICS_BIND", "127.0.0.1:9464", "default"),
        ("KEYOSK_SHOW_VERSION", "on", "default"),
        ("KEYOSK_CONSOLE", "on", "default"),
        ("KEYOSK_CONSOLE_SECOND_FACTOR", "optional", "default"),
        ("KEYOSK_TRACES", "off", "default"),
        ("KEYOSK_LOG_LEVEL", "info", "default"),
        ("KEYOSK_LOG_FORMAT", "auto", "default"),
    ]


def test_describe_says_what_happens_to_secrets_that_are_not_set() -> None:
    shown = {name: value for name, value, _ in load({}).describe()}
    assert shown["KEYOSK_SECRET_KEY"] == "made at first start beside the SQLite file"
    assert shown["KEYOSK_ADMIN_PASSWORD"] == "generated and shown once"
    assert shown["KEYOSK_DATABASE_URL"] == "sqlite:///data/keyosk.db"


@table(
    ("url", "shown"),
    [
        ("postgresql://u:p@db/k", "postgresql://u:***@db/k"),
        ("postgresql://:p@db/k", "postgresql://:***@db/k"),
        ("postgresql://u@db/k", "postgresql://u@db/k"),
        ("postgresql://db/k?password=p", "postgresql://db/k?***"),
        ("postgresql:///k?user=u&sslpassword=p", "postgresql:///k?***"),
    ],
)
def test_describe_masks_each_place_of_a_password_in_a_url(url: str, shown: str) -> None:
    config = load({"KEYOSK_DATABASE_URL": url, "KEYOSK_SECRET_KEY": KEY})
    assert {name: value for name, value, _ in config.describe()}["KEYOSK_DATABASE_URL"] == shown


# Long, and of letters that no sentence of ours holds in such a row.
SENTINELS = st.text("qzxj", min_size=43, max_size=60)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(secret=SENTINELS, more=st.text(st.characters(codec="utf-8"), max_size=5))
def test_secrets_are_nowhere_to_be_seen(secret: str, more: str) -> None:
    """In no text of a good ``Config`` nor, when something is wrong, of the error."""
    environ = {
        "KEYOSK_SECRET_KEY": secret,
        "KEYOSK_ADMIN_PASSWORD": secret + more,
        "KEYOSK_DATABASE_URL": f"postgresql://u:{secret}@db/k?password={secret}",
        **PKCS11,
        "KEYOSK_PKCS11_PIN": secret,
    }
    config = load(environ)
    seen = f"{config!r} {config} {config.describe()} {config.sources} {config.warnings}"
    assert secret not in seen
    assert secret not in everything_said_by(environ | {"KEYOSK_THREADS": "0"})


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row.name)
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(secret=SENTINELS, before=st.text(max_size=5), after=st.text(max_size=5))
def test_no_refusal_repeats_the_value(row: Any, secret: str, before: str, after: str) -> None:
    """Of any setting: the secret may stand in the wrong line."""
    value = f"{before}{secret}{after}".replace("\0", "")
    for text in (value, f"postgresql://u:{value}/k", f"https://u:{value}@h", f"10.0.0.0/{value}"):
        # With a second problem, so that there is always an error.
        assert secret not in everything_said_by({row.variable: text, "KEYOSK_": "x"})
        if row in SECRETS:
            assert secret not in everything_said_by({f"{row.variable}_FILE": text, "KEYOSK_": "x"})


@pytest.mark.parametrize("line", ["= '{}'", "= '{}", "= {}", "= ['{}', 1]", "= '''{}", '= "{}\\x"'])
def test_no_refusal_repeats_the_file(line: str, folder: Path) -> None:
    secret = "qzxj" * 15
    for row in SETTINGS:
        toml(folder, f"{row.name} {line.format(secret)}\n")
        assert secret not in everything_said_by({"KEYOSK_": "x"})


def everything_said_by(environ: dict[str, str]) -> str:
    """All text of the refusal, with the exceptions behind it and what they hold."""
    with pytest.raises(ConfigurationError) as caught:
        load(environ)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    told = "".join(traceback.format_exception(error))
    return f"{told} {error} {error!r} {error.detail} {error.faults} {vars(error)}"


def test_a_config_cannot_be_changed() -> None:
    config = load({})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.threads = 1  # type: ignore[misc]
    assert not hasattr(config, "__dict__")
    assert copy.deepcopy(config) == config
    assert isinstance(hash(config), int)


# --- Documentation --------------------------------------------------------------------------------


def test_the_documentation_has_each_setting_with_its_default_and_nothing_else() -> None:
    rows = re.findall(r"^\| `(KEYOSK_\w+)` \| (.+?) \| (.+) \|$", DOCS.read_text(), re.MULTILINE)
    assert [(name, default.replace("`", ""), meaning) for name, default, meaning in rows] == [
        (row.variable, row.default_text, row.meaning) for row in SETTINGS
    ]


def test_the_documentation_names_no_variable_that_does_not_exist() -> None:
    named = set(re.findall(r"KEYOSK_[A-Z0-9_]*\w", DOCS.read_text()))
    known = {row.variable for row in SETTINGS} | {f"{row.variable}_FILE" for row in SECRETS}
    assert named == known | {"KEYOSK_CONFIG"}


def test_the_examples_of_the_documentation_are_accepted(folder: Path) -> None:
    text = DOCS.read_text().replace("/run/secrets", str(folder))
    (folder / "database_url").write_text(POSTGRESQL)
    (folder / "secret_key").write_text(KEY)
    (folder / "admin_password").write_text(PASSWORD)
    examples = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(examples) == 2
    configs: list[Config] = []
    for example in examples:
        toml(folder, example)
        configs.append(load({}))
    (folder / "keyosk.toml").unlink()
    assert load(dict(re.findall(r"^export (\w+)=(.*)$", text, re.MULTILINE))) == configs[1]
    assert all(not config.warnings for config in configs)
