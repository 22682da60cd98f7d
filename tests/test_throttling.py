"""Guessing passwords: how many guesses are possible, and that nobody locks somebody else out.

Without ``Throttling.admit`` in authentication, every bound here fails. If it counted after the
password was checked, the bounds for concurrent requests would fail.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from time import process_time
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from installed import Clock, installed, rows_of
from keyosk.credentials.presented import candidates
from keyosk.credentials.throttling import Throttling, source_of
from keyosk.errors import BadCredentials, Throttled
from keyosk.installation import Installation
from keyosk.model import OPERATOR
from keyosk.storage.database import Database
from keyosk.storage.throttling import ThrottlingStore
from live import Client, LiveServer
from people import PASSWORD, Person, make_key, make_person

pytestmark = pytest.mark.every_database(always=True)

MINUTES = 15 * 60
HERE = "192.0.2.1"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(prepared_url: str, clock: Clock) -> Iterator[Installation]:
    """An installation whose time the test sets, with the account alice."""
    with installed(prepared_url, clock=clock) as keyosk:
        keyosk.grants.create_account(OPERATOR, [], username="alice", password=PASSWORD)
        yield keyosk


def attempt(installation: Installation, name: str, secret: str, address: str) -> str:
    """The outcome of a login: "in", "wrong" or "throttled"."""
    try:
        installation.authentication.by_secret(candidates([(name, secret)]), address=address)
    except BadCredentials:
        return "wrong"
    except Throttled:
        return "throttled"
    return "in"


def wrong(installation: Installation, name: str, address: str, times: int) -> Counter[str]:
    return Counter(attempt(installation, name, "not it", address) for _ in range(times))


# --- How many -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alice", "nobody-of-this-name", "no name: \x7f"])
def test_one_source_has_few_guesses_at_any_name(timed: Installation, name: str) -> None:
    assert wrong(timed, name, HERE, 40) == {"wrong": 12, "throttled": 28}


@pytest.mark.parametrize("name", ["alice", "nobody-of-this-name"])
def test_all_sources_together_have_few_guesses_at_a_name(timed: Installation, name: str) -> None:
    outcomes = Counter(
        attempt(timed, name, "not it", f"198.51.100.{number}") for number in range(1, 60)
    )
    assert outcomes == {"wrong": 15, "throttled": 44}


def test_one_source_tries_few_names(timed: Installation) -> None:
    outcomes = Counter(attempt(timed, f"name{number}", "not it", HERE) for number in range(60))
    assert outcomes == {"wrong": 25, "throttled": 35}


def test_many_wrong_guesses_at_few_names_are_no_new_names(timed: Installation) -> None:
    for name in ("alice", "bob", "carol"):
        assert wrong(timed, name, HERE, 12) == {"wrong": 12}
    assert attempt(timed, "dave", "not it", HERE) == "wrong"


def test_every_spelling_of_a_name_is_the_same_name(timed: Installation) -> None:
    spellings = ["alice", "ALICE", "Alice", "\uff21lice", "aLiCe"]
    assert Counter(attempt(timed, name, "not it", HERE) for name in spellings * 5)["wrong"] == 12


def test_a_header_counts_for_every_name_that_it_can_mean(timed: Installation) -> None:
    """Else each of the thousand ways to escape a name would have guesses of its own."""
    escaped = [
        "".join(f"%{ord(c):02x}" if place & 1 << i else c for i, c in enumerate("alice"))
        for place in range(1, 32)
    ]
    outcomes: Counter[str] = Counter()
    for name in escaped:
        try:
            timed.authentication.by_secret(
                candidates([(name, "not it"), ("alice", "not it")]), address=HERE
            )
        except BadCredentials:
            outcomes["wrong"] += 1
        except Throttled:
            outcomes["throttled"] += 1
    assert outcomes["wrong"] <= 12


def test_an_ipv6_client_has_one_count_for_all_its_addresses(timed: Installation) -> None:
    outcomes = Counter(
        attempt(timed, "alice", "not it", f"2001:db8:1:2::{number:x}") for number in range(1, 40)
    )
    assert outcomes["wrong"] == 12
    assert source_of("::ffff:192.0.2.1") == source_of("192.0.2.1")
    assert source_of("2001:db8:1:2::1") != source_of("2001:db8:1:3::1")


@pytest.mark.slow
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    guesses=st.lists(
        st.tuples(
            st.integers(0, 120_000),  # milliseconds since the one before
            st.sampled_from([HERE, "192.0.2.2", "192.0.2.3", "2001:db8::1"]),
            st.integers(0, 60),
        ),
        min_size=100,
        max_size=400,
    ),
    names=st.sampled_from([1, 3, 60]),
)
def test_in_any_fifteen_minutes_the_bounds_hold(
    migrated_url: str, guesses: list[tuple[int, str, int]], names: int
) -> None:
    clock, database = Clock(), Database(migrated_url)
    counted = Throttling(database, ThrottlingStore(database), clock)
    prefix = f"{next(_runs)}-"
    allowed: list[tuple[float, str, str]] = []
    for pause, source, number in guesses:
        clock.now += pause / 1000
        name = f"{prefix}{number % names}"
        try:
            counted.admit(name, source, seen_at=None)
        except Throttled:
            continue
        allowed.append((clock.now, name, source))
    database.close()

    for start, name, source in allowed:
        window = [each for each in allowed if start <= each[0] <= start + MINUTES]
        assert sum(each[1:] == (name, source) for each in window) <= 15
        assert sum(each[1] == name for each in window) <= 30
        assert len({each[1] for each in window if each[2] == source}) <= 40


_runs = count(1)


# --- Whom it must not hurt ------------------------------------------------------------------------


def test_right_guesses_do_not_count(timed: Installation) -> None:
    outcomes = Counter(attempt(timed, "alice", PASSWORD, f"192.0.2.{n}") for n in range(1, 80))
    assert outcomes == {"in": 79}


def test_whoever_was_there_before_gets_in_while_others_guess(timed: Installation) -> None:
    assert attempt(timed, "alice", PASSWORD, HERE) == "in"
    for number in range(1, 60):
        attempt(timed, "alice", "not it", f"198.51.100.{number}")

    assert attempt(timed, "alice", PASSWORD, "203.0.113.9") == "throttled"
    assert attempt(timed, "alice", PASSWORD, HERE) == "in"
    # Nor does it matter there how many other names somebody tries.
    for number in range(60):
        attempt(timed, f"name{number}", "not it", HERE)
    assert attempt(timed, "alice", PASSWORD, HERE) == "in"


def test_where_somebody_was_before_guesses_are_few_as_well(timed: Installation) -> None:
    assert attempt(timed, "alice", PASSWORD, HERE) == "in"
    assert wrong(timed, "alice", HERE, 40)["wrong"] == 12
    assert attempt(timed, "alice", PASSWORD, HERE) == "throttled"


@pytest.mark.slow
def test_the_owner_is_back_a_minute_after_the_attack(timed: Installation, clock: Clock) -> None:
    for second in range(330):
        attempt(timed, "alice", "not it", f"198.51.100.{second % 250}")
        clock.now += 1
    assert attempt(timed, "alice", "not it", "198.51.100.1") == "throttled"

    clock.now += 60
    assert attempt(timed, "alice", PASSWORD, "203.0.113.9") == "in"


def test_what_is_said_of_the_wait_is_true(timed: Installation, clock: Clock) -> None:
    wrong(timed, "alice", HERE, 12)
    with pytest.raises(Throttled) as refused:
        timed.authentication.by_secret(candidates([("alice", PASSWORD)]), address=HERE)

    clock.now += refused.value.retry_after - 2
    assert attempt(timed, "alice", PASSWORD, HERE) == "throttled"
    clock.now += 2
    assert attempt(timed, "alice", PASSWORD, HERE) == "in"


def test_what_is_whole_again_is_forgotten(timed: Installation, clock: Clock) -> None:
    counted = Throttling(timed.database, ThrottlingStore(timed.database), clock)
    for number in range(199):
        counted.admit(f"name{number}", f"192.0.2.{number}", seen_at=None)
    clock.now += 2 * MINUTES
    counted.admit("another", HERE, seen_at=None)
    assert rows_of(timed, "SELECT count(*) FROM allowance") == [(3,)]


def test_the_audit_log_tells_of_guesses_in_few_rows(timed: Installation, clock: Clock) -> None:
    wrong(timed, "alice", HERE, 100)
    clock.now += 120
    timed.audit.seal()
    rows = rows_of(
        timed, "SELECT action, after FROM audit_row WHERE action LIKE ? ORDER BY action", "login.%"
    )
    assert [row[0] for row in rows] == ["login.failed", "login.throttled"]
    assert json.loads(rows[0][1])["count"] == 12


# --- Over HTTP ------------------------------------------------------------------------------------


@pytest.fixture
def person(admin: Client) -> Person:
    return make_person(admin)


def at_once(requests: list[Callable[[], int]]) -> Counter[int]:
    with ThreadPoolExecutor(len(requests)) as threads:
        return Counter(threads.map(lambda request: request(), requests))


def guess(server: LiveServer, client: Client, name: str, secret: str = "not it") -> int:
    return client.post("/auth/token", auth=(name.encode(), secret.encode())).status_code


@pytest.mark.attack
def test_sixty_guesses_at_once_from_one_source(server: LiveServer, person: Person) -> None:
    client = server.client()
    outcomes = at_once([lambda: guess(server, client, person.username)] * 60)
    assert set(outcomes) == {401, 429}
    assert outcomes[401] <= 15


@pytest.mark.attack
def test_sixty_guesses_at_once_from_sixty_sources(server: LiveServer, person: Person) -> None:
    clients = [server.client() for _ in range(60)]
    outcomes = at_once([partial(guess, server, client, person.username) for client in clients])
    assert set(outcomes) == {401, 429}
    assert outcomes[401] <= 30


def test_sixty_right_logins_at_once_are_let_in(server: LiveServer, person: Person) -> None:
    client = server.client()
    assert at_once([lambda: guess(server, client, person.username, PASSWORD)] * 60) == {200: 60}


def test_the_answer_says_how_long_to_wait_and_no_more(server: LiveServer, person: Person) -> None:
    client = server.client()
    while guess(server, client, person.username) == 401:
        continue
    # The right password is not even looked at.
    response = client.post("/auth/token", auth=(person.username, PASSWORD))
    assert response.status_code == 429
    assert response.json()["error"] == "temporarily_unavailable"
    assert 1 <= int(response.headers["Retry-After"]) <= 300
    assert response.headers["Cache-Control"] == "no-store"

    problem = client.get("/accounts/me", auth=(person.username, PASSWORD))
    assert (problem.status_code, problem.json()["code"]) == (429, "throttled")
    assert "Retry-After" in problem.headers


def test_keys_and_tokens_are_not_throttled_by_wrong_passwords(
    server: LiveServer, admin: Client, person: Person
) -> None:
    _, secret = make_key(admin, person)
    client = server.client()
    token = client.post(
        "/auth/token", auth=(person.username, secret), data={"audience": "keyosk"}
    ).json()["access_token"]
    while guess(server, client, person.username) == 401:
        continue

    assert guess(server, client, person.username, secret) == 200
    bearer = {"Authorization": f"Bearer {token}"}
    assert client.get("/accounts/me", headers=bearer).status_code == 200


def test_the_current_password_cannot_be_guessed_by_token(
    server: LiveServer, admin: Client, person: Person
) -> None:
    client = server.client()
    token = client.post(
        "/auth/token", auth=(person.username, PASSWORD), data={"audience": "keyosk"}
    ).json()["access_token"]
    outcomes = Counter(
        client.put(
            "/accounts/me/password",
            json={"password": "another password of mine", "current_password": "not it"},
            headers={"Authorization": f"Bearer {token}"},
        ).status_code
        for _ in range(20)
    )
    assert outcomes[429] == 8
    # It is one count with that of logins.
    assert guess(server, client, person.username) == 429


def test_escaped_names_have_no_guesses_of_their_own(server: LiveServer, person: Person) -> None:
    client = server.client()
    outcomes: Counter[int] = Counter()
    for place in range(len(person.username)):
        name = person.username
        escaped = f"{name[:place]}%{ord(name[place]):02x}{name[place + 1 :]}"
        assert quote(escaped, safe="%") == escaped
        outcomes[guess(server, client, escaped)] += 1
    assert outcomes[401] <= 12


def test_a_header_that_no_proxy_wrote_is_no_source(server: LiveServer, person: Person) -> None:
    client = server.client()
    outcomes = Counter(
        client.post(
            "/auth/token",
            auth=(person.username, "not it"),
            headers={"X-Forwarded-For": f"198.51.100.{number}"},
        ).status_code
        for number in range(20)
    )
    assert outcomes[401] == 12


@pytest.mark.slow
def test_counts_outlive_restarts_and_hold_everywhere(database_url: str, tmp_path: Path) -> None:
    with LiveServer(database_url, tmp_path) as one:
        person = make_person(one.admin())
        client = one.client()
        while guess(one, client, person.username) == 401:
            continue
        with LiveServer(database_url, tmp_path) as other:
            client.url = other.url
            assert guess(other, client, person.username, PASSWORD) == 429
        client.url = one.url
        one.kill()
        one.start()
        assert guess(one, client, person.username, PASSWORD) == 429


# --- What the time of a response tells ------------------------------------------------------------


@pytest.mark.attack
@pytest.mark.slow
@pytest.mark.usefixtures("users_hashes")
def test_every_kind_of_wrong_login_costs_the_same(timed: Installation) -> None:
    """Processor time, which other processes do not disturb; ratios within one run."""
    timed.grants.create_account(OPERATOR, [], username="disabled", password=PASSWORD, enabled=False)
    timed.grants.create_account(OPERATOR, [], username="without")
    kinds = {
        "wrong": ("alice", "not the password"),
        "unknown": ("nobody", "not the password"),
        "disabled": ("disabled", PASSWORD),
        "empty": ("alice", ""),
        "without": ("without", "not the password"),
        "key-shaped": ("alice", "kysk_" + "0" * 38),
        "long": ("alice", "x" * 5_000),
    }
    spent: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(40):
        timed.clock.now += 900  # type: ignore[attr-defined]  # whole allowances for all
        for kind, (name, secret) in kinds.items():
            begun = process_time()
            assert attempt(timed, name, secret, f"192.0.2.{number}") == "wrong"
            spent[kind].append(process_time() - begun)

    # The fewest, as for a while a busy machine is slower.
    costs = {kind: min(times) for kind, times in spent.items()}
    assert max(costs.values()) < 1.10 * min(costs.values()), costs
