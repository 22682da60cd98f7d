"""Whose address counts behind trusted proxies, in every form that proxies write it."""

from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from keyosk.credentials.throttling import source_of
from keyosk.web.client_address import Source
from live import LiveServer
from people import PASSWORD, make_key, make_person
from tables import table

PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8"), ip_network("127.0.0.0/8")]
V4, V6 = "203.0.113.7", "2001:db8::1"
#: A hop as a proxy may write it, and the address that it means.
HOPS = [
    (V4, V4),
    (f"{V4}:51008", V4),
    (f"{V4}:_port", V4),
    (f'"{V4}"', V4),
    (f'"{V4}:51008"', V4),
    (V6, V6),
    ("2001:DB8:0:0::1", V6),
    (f"[{V6}]", V6),
    (f"[{V6}]:51008", V6),
    (f'"[{V6}]:51008"', V6),
    (f'"[{V6}]"', V6),
    (f"{V6}%eth0", V6),
    (f"[{V6}%25eth0]:1", V6),
    (f"::ffff:{V4}", V4),
    (f"[::ffff:{V4}]:80", V4),
    ("::ffff:cb00:7107", V4),
    (f" \t{V4} ", V4),
    ("_hidden", "unknown/_hidden"),
    ("_SEVKISEK:_p", "unknown/_SEVKISEK"),
    *((text, "unknown") for text in (
        "unknown", "Unknown", "-", "localhost", "203.0.113", "203.0.113.256", "010.0.0.1",
        "203.0.113.7:", "203.0.113.7:123456", "[2001:db8::1", "2001:db8::1]",
        "[2001:db8::1]x", "203.0.113.7 203.0.113.8", "203.0.113.7/32", "0xcb007107", "3405803783",
        "for=203.0.113.7", "\u0662\u0660\u0663.0.113.7", "_" + "x" * 60, "_", '"', '""',
        "http://203.0.113.7", "203.0.113.7;203.0.113.8", "::1::",
    )),
]  # fmt: skip


def of(peer: str | None = "10.0.0.1", **headers: str) -> str | None:
    environ = {f"HTTP_{name}": value for name, value in headers.items()}
    return Source(PROXIES).of({"REMOTE_ADDR": peer, **environ})


@table(("hop", "address"), HOPS)
def test_every_form_of_a_hop_is_read_or_nobody_s(hop: str, address: str) -> None:
    for value in (
        hop,
        f"198.51.100.9, {hop}",
        f"{hop}, 10.1.2.3",
        f"{hop},10.1.2.3:80,[fd00::2]:1",
    ):
        assert of(X_FORWARDED_FOR=value) == address, value
        assert of("::ffff:10.0.0.1", X_FORWARDED_FOR=value) == address
        assert of("192.0.2.1", X_FORWARDED_FOR=value) == "192.0.2.1"  # no proxy of ours
        assert (
            Source([]).of({"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_FOR": value}) == "10.0.0.1"
        )


FORWARDED = [
    (f"for={V4}", V4),
    (f"For={V4};Proto=https;by=10.0.0.1", V4),
    (f"proto=http; for={V4}", V4),
    (f'for="{V4}:51008"', V4),
    (f"for={V4}:51008", V4),
    (f'for="[{V6}]:51008";proto=https', V6),
    (f'FOR="[{V6}]"', V6),
    (f'for="\\[{V6}\\]:1"', V6),
    (f"for=198.51.100.9, for={V4}", V4),
    (f"for={V4}, for=10.2.2.2", V4),
    (f'for={V4}, for="[fd00::9]:1", for=10.2.2.2;host="a,b"', V4),
    (f'for={V4};host="x, for=198.51.100.9"', V4),
    (f'for={V4};host="x, for=198.51.100.9;a=b"', V4),
    # What the client left open must not swallow what the proxy appended.
    (f'for="198.51.100.9, for={V4}', V4),
    (f'for=", for="[{V6}]"', V6),
    (f'for=198.51.100.9;x=", for={V4}', V4),
    (f'for=198.51.100.9;x="\\, for="{V4}"', V4),
    (f";;,,, for={V4}", V4),
    (f"for={V4},", V4),
    (f"for={V4};", V4),
    ("for=_hidden", "unknown/_hidden"),
    ('for="_hidden:_p"', "unknown/_hidden"),
    ("for=unknown", "unknown"),
    ("proto=https", "unknown"),
    (f"proto=https, for={V4}, by=10.0.0.1", "unknown"),
    (f"for={V4};for=198.51.100.9", "unknown"),
    (f"for={V4} for=198.51.100.9", "unknown"),
    (f'for="{V4}', "unknown"),
    (V4, "unknown"),
    ("for=", "unknown"),
    ("for", "unknown"),
    ('for=""', "unknown"),
    (f"for = {V4}", "unknown"),
    ("," * 9000 + '"' * 3000, "unknown"),
]


@table(("value", "address"), FORWARDED)
def test_forwarded_is_read_from_the_right(value: str, address: str) -> None:
    assert of(FORWARDED=value) == address


def test_two_headers_that_differ_are_nobody_s_address() -> None:
    assert of(X_FORWARDED_FOR=V4, FORWARDED=f"for={V4}") == V4
    assert of(X_FORWARDED_FOR=f"{V4}:1", FORWARDED=f'for="{V4}:2"') == V4
    assert of(X_FORWARDED_FOR=V4, FORWARDED="for=198.51.100.9") == f"unknown/{V4}"
    assert of(X_FORWARDED_FOR=V4, FORWARDED="x") == f"unknown/{V4}"
    assert of(X_FORWARDED_FOR="x", FORWARDED=f"for={V4}") == "unknown"
    assert of(X_FORWARDED_FOR="", FORWARDED=f"for={V4}") == V4
    assert of(X_FORWARDED_FOR=V4, FORWARDED="") == V4


def test_a_proxy_that_names_no_client_is_the_client() -> None:
    assert of() == "10.0.0.1"
    assert of(X_FORWARDED_FOR=" , ") == "10.0.0.1"
    assert of(X_FORWARDED_FOR="10.0.0.2") == "10.0.0.2"
    assert of(None, X_FORWARDED_FOR=V4) is None


def test_an_ipv4_client_of_a_dual_stack_socket_has_its_ipv4_address() -> None:
    assert of("::ffff:192.0.2.1", X_FORWARDED_FOR=V4) == "192.0.2.1"
    assert of("::ffff:10.0.0.1") == "10.0.0.1"
    assert Source([]).of({"REMOTE_ADDR": "::ffff:c000:201"}) == "192.0.2.1"
    assert of(V6) == V6


def test_a_unix_socket_is_a_proxy_where_that_is_said() -> None:
    assert of("", X_FORWARDED_FOR=V4) == "unix"
    source = Source([*PROXIES, "unix"])
    assert source.of({"REMOTE_ADDR": "", "HTTP_X_FORWARDED_FOR": f"198.51.100.9, {V4}"}) == V4
    assert source.of({"REMOTE_ADDR": ""}) == "unix"
    assert source.of({"REMOTE_ADDR": V4, "HTTP_X_FORWARDED_FOR": "198.51.100.9"}) == V4
    # No client becomes one by a header.
    assert source.of({"REMOTE_ADDR": "", "HTTP_X_FORWARDED_FOR": "unix"}) == "unknown"


def test_sources_that_a_proxy_hides_are_told_apart_and_those_of_nobody_are_not_one() -> None:
    assert source_of("unknown/_a") != source_of("unknown/_b")
    assert source_of("unknown") == source_of(None) == ""
    assert len(source_of("unknown/_" + "x" * 40)) <= 64


def test_the_log_warns_once_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    source = Source(PROXIES, clock=lambda: now)
    for now in (0.0, 1.0, 3599.0, 3601.0):  # noqa: B007  # the clock reads it
        source.of({"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_FOR": "secret-text"})
    assert len(caplog.records) == 2
    assert "secret-text" not in caplog.text
    assert "10.0.0.1" in caplog.text


# --- Through HTTP ---------------------------------------------------------------------------------


@pytest.fixture
def behind(database_url: str, tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(database_url, tmp_path, trusted_proxies="127.0.0.0/8") as started:
        yield started


@pytest.mark.slow
@pytest.mark.attack
def test_a_client_with_a_port_is_not_taken_for_the_proxy(behind: LiveServer) -> None:
    admin = behind.admin()
    alice, bob = make_person(admin), make_person(admin)
    _, key = make_key(admin, alice, networks=["203.0.113.0/24", "2001:db8::/32"])
    _, local = make_key(admin, alice, networks=["127.0.0.0/8"])
    for value in (f"{V4}:51008", f"[{V6}]:51008", f'"[{V6}]"', f"198.51.100.9, {V4}:1"):
        headers = {"X-Forwarded-For": value}
        assert alice.login(key).post("/auth/token", headers=headers).status_code == 200, value
        assert alice.login(local).post("/auth/token", headers=headers).status_code == 401, value
    headers = {"Forwarded": f'for="[{V6}]:51008";proto=https'}
    assert alice.login(key).post("/auth/token", headers=headers).status_code == 200
    for value in ("198.51.100.9:1", "unknown", "_hidden", f"{V4}, unknown", "[::1", "127.0.0.1.5"):
        headers = {"X-Forwarded-For": value}
        for secret in (key, local):
            assert alice.login(secret).post("/auth/token", headers=headers).status_code == 401
    assert behind.log.read_text().count("cannot be read") <= 4  # once a worker

    for number in range(13):
        headers = {"X-Forwarded-For": f"198.51.100.9:{50000 + number}"}
        bob.login("wrong").post("/auth/token", headers=headers)
    assert bob.login().post("/auth/token", headers=headers).status_code == 429
    headers = {"X-Forwarded-For": "198.51.100.10:50000"}
    assert bob.login().post("/auth/token", headers=headers).status_code == 200


@pytest.mark.slow
@pytest.mark.attack
def test_one_attacker_whose_address_nobody_reads_does_not_lock_out_all(behind: LiveServer) -> None:
    admin, headers = behind.admin(), {"X-Forwarded-For": "unknown"}
    alice = make_person(admin)
    attacker = behind.client("nobody-0", "x")
    for number in range(45):
        attacker.session.auth = (f"nobody-{number}", "kysk_wrong")
        attacker.post("/auth/token", headers=headers)
    assert alice.login(PASSWORD).post("/auth/token", headers=headers).status_code == 200
