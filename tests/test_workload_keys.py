"""The keys of issuers, and logins by them, where something changes meanwhile or elsewhere.

``two`` is a second node on the same database. Each test has its own clock.
"""

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

import certificates
from installed import Clock, installed, rows_of, statements
from keyosk.errors import Conflict, Invalid, InvalidGrant, Unavailable
from keyosk.installation import Installation
from keyosk.model import OPERATOR, CredentialKind, Grant, Kind, Scope
from keyosk.storage.workloads import IssuerStore
from keyosk.tokens.issuing import TokenRequest
from keyosk.workloads import fetching
from keyosk.workloads.documents import FetchFailed
from platforms import AUDIENCE, KEYS, METADATA, Platform, platform, send
from waiting import until

pytestmark = [pytest.mark.every_database, pytest.mark.attack]

_SECONDS = 60
MAIN: dict[str, Any] = {"repository_id": ("842913401",)}


@pytest.fixture
def clock() -> Clock:
    return Clock(int(time.time()))


@pytest.fixture
def keyosk(prepared_url: str, clock: Clock, ci: Platform) -> Iterator[Installation]:
    with installed(prepared_url, clock=clock) as made:
        scopes, accepts = [Scope("todo:read")], frozenset({CredentialKind.WORKLOAD})
        made.services.create(OPERATOR, name="todo", scopes=scopes, accepts=accepts)
        machine(made)
        trust(made, ci)
        made.workload_rules.create(OPERATOR, "ci", name="main", claims=MAIN, account="deployer")
        yield made


@pytest.fixture
def two(keyosk: Installation, prepared_url: str, clock: Clock) -> Iterator[Installation]:
    with installed(prepared_url, clock=Clock(clock.now)) as made:
        yield made


def machine(keyosk: Installation) -> None:
    keyosk.grants.create_account(
        OPERATOR, [Grant("todo:read")], username="deployer", kind=Kind.MACHINE
    )


def trust(keyosk: Installation, ci: Platform, **fields: Any) -> None:
    usual: dict[str, Any] = {"issuer": ci.issuer, "audience": AUDIENCE, "allow_private": True}
    keyosk.issuers.create(OPERATOR, name="ci", preset="github", **{**usual, **fields})


def log_in(keyosk: Installation, token: str) -> str:
    """The scope of the token that comes back."""
    return keyosk.token_issuer.by_assertion(token, TokenRequest()).token.scope


def told(keyosk: Installation, token: str) -> str:
    """Why a token does not log in."""
    with pytest.raises(InvalidGrant) as refused:
        log_in(keyosk, token)
    return refused.value.detail


def fetches() -> list[str]:
    """The threads that fetch keys."""
    return [each.name for each in threading.enumerate() if each.name.endswith("(_fetch)")]


def logs_in(keyosk: Installation, token: str) -> bool:
    try:
        return log_in(keyosk, token) == "todo:read"
    except (InvalidGrant, Unavailable):
        return False


# --- Issuers that change --------------------------------------------------------------------------


def test_a_rotated_key_is_found_and_an_unknown_one_costs_little(
    keyosk: Installation, clock: Clock, ci: Platform
) -> None:
    assert log_in(keyosk, ci.token()) == "todo:read"
    ci.rotate("key-2")
    asked = len(ci.asked)
    for number in range(20):
        told(keyosk, ci.token(headers={"kid": f"made-up-{number}"}))
    told(keyosk, ci.token())
    assert len(ci.asked) == asked  # nobody can make Keyosk fetch all the time
    clock.now += 31
    assert log_in(keyosk, ci.token()) == "todo:read"
    asked = len(ci.asked)
    for number in range(20):
        told(keyosk, ci.token(headers={"kid": f"made-up-{number}"}))
    assert len(ci.asked) == asked


def test_another_key_of_one_id_is_found(keyosk: Installation, clock: Clock, ci: Platform) -> None:
    assert log_in(keyosk, ci.token()) == "todo:read"
    ci.rotate(ci.kid)
    asked = len(ci.asked)
    for _ in range(10):
        assert "not valid" in told(keyosk, ci.token())
    until(lambda: not fetches())
    assert len(ci.asked) == asked  # nobody can make Keyosk fetch all the time
    clock.now += 31
    until(lambda: logs_in(keyosk, ci.token()))


def test_a_change_of_algorithm_is_followed_as_far_as_it_is_accepted(
    keyosk: Installation, clock: Clock, ci: Platform
) -> None:
    keyosk.issuers.change(OPERATOR, "ci", {"algorithms": ("RS256", "ES256")})
    assert log_in(keyosk, ci.token()) == "todo:read"
    for algorithm, is_accepted in {"ES256": True, "ES384": False, "RS256": True}.items():
        ci.algorithm = algorithm
        ci.rotate(ci.kid)
        clock.now += 31
        if is_accepted:
            assert log_in(keyosk, ci.token()) == "todo:read"
        else:
            assert "algorithm" in told(keyosk, ci.token())


def test_of_two_keys_with_one_id_either_may_sign(keyosk: Installation, ci: Platform) -> None:
    first, first_key = ci.keys[0], ci.key
    ci.rotate(ci.kid)
    ci.keys = [first, *ci.keys]
    assert log_in(keyosk, ci.token()) == "todo:read"
    ci.key = first_key
    assert log_in(keyosk, ci.token()) == "todo:read"


def test_keys_from_a_replaced_address_do_not_count(keyosk: Installation, ci: Platform) -> None:
    """An admin takes a hijacked address away while it makes Keyosk wait for its answer."""
    asked, held = threading.Event(), threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        asked.set()
        held.wait(_SECONDS)
        send(handler, b'{"keys": [%s]}' % hijacked, headers={"Cache-Control": "max-age=86400"})

    with platform() as evil:
        hijacked = str(evil.keys[0]).replace("'", '"').encode()
        evil.answers[KEYS] = slow
        keyosk.issuers.change(OPERATOR, "ci", {"jwks_uri": evil.issuer + KEYS})
        token = evil.token(iss=ci.issuer)

        def show() -> None:
            logs_in(keyosk, token)
            keyosk.database.close()

        waiting = threading.Thread(target=show)
        waiting.start()
        assert asked.wait(_SECONDS)
        keyosk.issuers.change(OPERATOR, "ci", {"jwks_uri": ci.issuer + KEYS})
        assert log_in(keyosk, ci.token()) == "todo:read"
        held.set()
        waiting.join(_SECONDS)
        # The thread that fetched ends after the response; whatever it writes, it writes by then.
        until(lambda: not any(each.name.endswith("(_fetch)") for each in threading.enumerate()))
        assert log_in(keyosk, ci.token()) == "todo:read"
        assert "not valid" in told(keyosk, token)


def test_an_issuer_that_is_back_logs_in_at_the_first_try(
    keyosk: Installation, clock: Clock, ci: Platform
) -> None:
    ci.answers[METADATA] = lambda handler: send(handler, b"", status=500)
    for _ in range(2):
        with pytest.raises(Unavailable):
            log_in(keyosk, ci.token())
    del ci.answers[METADATA]
    clock.now += 11
    assert log_in(keyosk, ci.token()) == "todo:read"


def test_a_clock_that_was_ahead_does_not_keep_keys_from_being_fetched(
    keyosk: Installation, clock: Clock, ci: Platform
) -> None:
    now, clock.now = clock.now, clock.now + 365 * 86_400
    then = int(clock.now)
    assert log_in(keyosk, ci.token(iat=then, exp=then + 60)) == "todo:read"
    clock.now = now
    assert ci.asked == [METADATA, KEYS]
    ci.rotate("key-2")
    assert log_in(keyosk, ci.token()) == "todo:read"


# --- Several nodes --------------------------------------------------------------------------------


def test_a_token_logs_in_once_on_all_nodes(
    keyosk: Installation, two: Installation, ci: Platform
) -> None:
    keyosk.workload_rules.change(OPERATOR, "ci", "main", {"once": True})
    token, outcomes = ci.token(), []

    def show(node: Installation) -> None:
        outcomes.append(logs_in(node, token))
        node.database.close()

    log_in(keyosk, ci.token())  # the keys are there
    threads = [threading.Thread(target=show, args=(node,)) for node in (keyosk, two) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_SECONDS)
    assert outcomes.count(True) == 1
    assert [told(node, token) for node in (keyosk, two)] == ["The token has logged in before."] * 2


def test_a_node_whose_clock_is_ahead_forgets_no_token_too_early(
    keyosk: Installation, two: Installation, clock: Clock, ci: Platform
) -> None:
    assert isinstance(two.clock, Clock)
    keyosk.workload_rules.change(OPERATOR, "ci", "main", {"once": True})
    token = ci.token(exp=int(clock.now) + 10)
    assert log_in(keyosk, token) == "todo:read"
    two.clock.now += 12
    assert log_in(two, ci.token()) == "todo:read"
    assert "before" in told(keyosk, token)
    for node in (keyosk, two):
        node.clock.now += 3_600  # type: ignore[attr-defined]
    assert log_in(two, ci.token(iat=int(clock.now), exp=int(clock.now) + 60)) == "todo:read"
    assert len(rows_of(keyosk, "SELECT digest FROM used_assertion")) == 1


def test_an_issuer_made_again_takes_no_token_again(keyosk: Installation, ci: Platform) -> None:
    token = ci.token()
    for first in (True, False):
        keyosk.workload_rules.change(OPERATOR, "ci", "main", {"once": True})
        assert logs_in(keyosk, token) is first
        keyosk.issuers.remove(OPERATOR, "ci", force=True)
        trust(keyosk, ci)
        keyosk.workload_rules.create(OPERATOR, "ci", name="main", claims=MAIN, account="deployer")


def test_a_flood_of_unknown_key_ids_fetches_once_for_all_nodes(
    keyosk: Installation, two: Installation, clock: Clock, ci: Platform
) -> None:
    assert isinstance(two.clock, Clock)
    assert log_in(keyosk, ci.token()) == "todo:read"
    clock.now += 31
    two.clock.now += 31
    asked = len(ci.asked)
    tokens = [ci.token(headers={"kid": f"made-up-{number}"}) for number in range(20)]

    def flood(node: Installation) -> None:
        for token in tokens:
            assert not logs_in(node, token)
        node.database.close()

    threads = [threading.Thread(target=flood, args=(node,)) for node in (keyosk, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_SECONDS)
    assert len(ci.asked) == asked + 2
    with statements() as sent:
        for token in tokens:
            told(keyosk, token)
    assert [text for text in sent if not text.startswith("SELECT")] == []
    assert log_in(two, ci.token()) == "todo:read"


def test_of_all_processes_one_turn_is_taken(keyosk: Installation, clock: Clock) -> None:
    store, now = IssuerStore(keyosk.database), int(clock.now)
    issuer_id = keyosk.issuers.get("ci").id
    latest = now + 2
    turns = [
        store.claim_fetch(issuer_id, now=now, not_after=now - 30, latest=latest) for _ in range(3)
    ]
    assert turns == [True, False, False]
    assert store.claim_fetch(issuer_id, now=now + 30, not_after=now, latest=latest + 30)
    assert store.claim_fetch(issuer_id, now=now - 90, not_after=now - 120, latest=now - 88)
    assert not store.claim_fetch("nothing", now=now, not_after=now, latest=now)


# --- Rules and accounts that change ---------------------------------------------------------------


@pytest.mark.parametrize("what", ["disable", "delete", "move", "issuer", "issuer-deleted"])
def test_a_rule_that_ends_during_a_login_lets_nothing_be_issued(
    keyosk: Installation, ci: Platform, what: str
) -> None:
    login = keyosk.workload_logins.by_assertion(ci.token())
    if what == "disable":
        keyosk.workload_rules.change(OPERATOR, "ci", "main", {"enabled": False})
    elif what == "move":
        keyosk.workload_rules.change(OPERATOR, "ci", "main", {"claims": {"ref": ("refs/x",)}})
    elif what == "delete":
        keyosk.workload_rules.remove(OPERATOR, "ci", "main")
    elif what == "issuer":
        keyosk.issuers.change(OPERATOR, "ci", {"enabled": False})
    else:
        keyosk.issuers.remove(OPERATOR, "ci", force=True)
    with pytest.raises(InvalidGrant):
        keyosk.workload_logins.record(login, address=None, request_id=None)
    assert rows_of(keyosk, "SELECT id FROM waiting_audit_row WHERE action = 'workload.login'") == []


def test_an_account_that_is_made_again_is_another(keyosk: Installation, ci: Platform) -> None:
    assert log_in(keyosk, ci.token()) == "todo:read"
    keyosk.accounts.remove(OPERATOR, "deployer")
    assert "no rule" in told(keyosk, ci.token())
    machine(keyosk)
    assert "no rule" in told(keyosk, ci.token())


def test_an_end_is_the_first_moment_at_which_a_rule_does_not_count(
    keyosk: Installation, clock: Clock, ci: Platform
) -> None:
    ends = int(clock.now) + 60
    keyosk.workload_rules.change(OPERATOR, "ci", "main", {"expires_at": ends})
    clock.now = ends - 1
    assert keyosk.token_issuer.by_assertion(ci.token(), TokenRequest()).token.expires_in == 1
    clock.now = ends
    assert "no rule" in told(keyosk, ci.token())


def test_a_star_stays_only_where_it_is_allowed(keyosk: Installation) -> None:
    claims = {**MAIN, "ref": ("refs/heads/*",)}
    keyosk.workload_rules.change(OPERATOR, "ci", "main", {"claims": claims})
    with pytest.raises(Conflict) as refused:
        keyosk.issuers.change(OPERATOR, "ci", {"prefix_claims": ("sub",)})
    assert refused.value.field == "prefix_claims"
    keyosk.issuers.change(OPERATOR, "ci", {"prefix_claims": ("ref",)})


def test_a_star_in_what_says_who_it_is_stands_for_whole_steps(keyosk: Installation) -> None:
    keyosk.issuers.create(
        OPERATOR, name="mesh", preset="spiffe", issuer="https://oidc.example.org", audience="a"
    )
    for name, value in {
        "one": "spiffe://example.org/shop",
        "all": "spiffe://example.org/*",
    }.items():
        keyosk.workload_rules.create(
            OPERATOR, "mesh", name=name, claims={"sub": (value,)}, account="deployer"
        )
    for value in ("spiffe://example.org/shop*", "spiffe://example.org*", "*", "spiffe://*/shop"):
        with pytest.raises(Invalid):
            keyosk.workload_rules.create(
                OPERATOR, "mesh", name="wrong", claims={"sub": (value,)}, account="deployer"
            )


# --- Answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 3_600),
        ({"Cache-Control": "max-age=600"}, 600),
        ({"Cache-Control": 'public, MAX-AGE="600"'}, 600),
        ({"Cache-Control": "max-age=5"}, 300),
        ({"Cache-Control": "max-age=0"}, 300),
        ({"Cache-Control": "max-age=-1"}, 300),
        ({"Cache-Control": "max-age=" + "9" * 5_000}, 86_400),
        ({"Cache-Control": "no-store, max-age=600"}, 300),
        ({"Cache-Control": "no-cache"}, 300),
        ({"Cache-Control": "s-maxage=600"}, 3_600),
        ({"Cache-Control": "max-age=600", "Age": "100"}, 500),
        ({"Cache-Control": "max-age=600", "Age": "9" * 5_000}, 300),
        ({"Cache-Control": "max-age=600", "Age": "-1000000"}, 600),
    ],
)
def test_keys_are_fresh_for_as_long_as_the_issuer_says_within_bounds(
    headers: dict[str, str], seconds: int
) -> None:
    with platform() as ci:
        ci.answers[KEYS] = lambda handler: send(handler, b"{}", headers=headers)
        _, fresh = fetching.fetch_json(ci.issuer + KEYS, allow_private=True)
    assert fresh == seconds


def _raw(content: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(content)

    return answer


def _chunks(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(2_000):
        handler.wfile.write(b"1\r\n \r\n" * 1_000)


def _heads(handler: BaseHTTPRequestHandler) -> None:
    for _ in range(2_000):
        handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1_000)


@pytest.mark.parametrize(
    ("does", "word"),
    [
        (_raw(b"SSH-2.0-OpenSSH_9.6 secret\r\n\r\n"), "not HTTP"),
        (_raw(b"220 mail.internal secret\r\n"), "not HTTP"),
        (_raw(b"HTTP/1.1 200 OK\r\nsecret header\r\n\r\n"), "not HTTP"),
        (_raw(b"HTTP/1.1 200 OK\r\nX: " + b"secret" * 100_000), "not HTTP"),
        (_raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8bsecret"), "not JSON"),
        (_raw(b'HTTP/1.1 200 OK\r\n\r\n{"secret": 1'), "not JSON"),
        (_raw(b""), "not HTTP"),
        (_chunks, "too many pieces"),
        (_heads, "more than"),
    ],
    ids=["ssh", "smtp", "header", "huge-header", "gzip", "cut", "nothing", "chunks", "heads"],
)
def test_an_answer_that_is_none_is_told_without_its_text(
    monkeypatch: pytest.MonkeyPatch, does: Callable[[BaseHTTPRequestHandler], None], word: str
) -> None:
    monkeypatch.setattr(fetching, "TIMEOUT", 60.0)  # a busy machine is slow to read the longest
    with platform() as ci:
        ci.answers[KEYS] = does
        with pytest.raises(FetchFailed, match=word) as refused:
            fetching.fetch_json(ci.issuer + KEYS, allow_private=True)
        assert "secret" not in str(refused.value)


def test_metadata_of_https_leads_to_no_plain_http(
    keyosk: Installation, ci: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, key = certificates.write(tmp_path / "tls", "ci")
    with platform(certificate=(chain, key)) as secure:
        keyosk.issuers.change(OPERATOR, "ci", {"issuer": secure.issuer})
        with pytest.raises(Unavailable) as refused:
            log_in(keyosk, secure.token())
        assert "certificate" in reason(refused.value)
        monkeypatch.setenv("SSL_CERT_FILE", str(chain))
        keyosk.clock.now += 11  # type: ignore[attr-defined]
        body = b'{"issuer": "%s", "jwks_uri": "%s"}'
        plain = body % (secure.issuer.encode(), ci.issuer.encode() + KEYS.encode())
        secure.answers[METADATA] = lambda handler: send(handler, plain)
        with pytest.raises(Unavailable) as refused:
            log_in(keyosk, secure.token())
        assert "not https" in reason(refused.value)
        assert ci.asked == []
        del secure.answers[METADATA]
        keyosk.clock.now += 11  # type: ignore[attr-defined]
        assert log_in(keyosk, secure.token()) == "todo:read"


def reason(error: Exception) -> str:
    """What an admin is told of it."""
    return str(getattr(error, "explanation", error))
