"""``iat`` dated back, for verifiers whose clocks are behind."""

import time
from collections.abc import Iterator
from dataclasses import replace

import jwt
import pytest

from installed import Clock, settings
from keyosk import app
from keyosk.errors import BadToken
from keyosk.installation import Installation
from keyosk.model import OPERATOR, Exchange, Grant, Scope
from keyosk.storage.audit import AuditStore
from keyosk.tokens.issuing import TokenRequest
from live import unique
from people import claims_of

BACKDATE = 4


@pytest.fixture
def installation(prepared_url: str) -> Iterator[Installation]:
    """One whose clock is right and whose tokens are dated back."""
    config = replace(settings(prepared_url), token_backdate=BACKDATE)
    keyosk = Installation(config, clock=Clock(int(time.time())))
    yield keyosk
    keyosk.database.close()


def issue(installation: Installation, account_id: str) -> str:
    login = installation.authentication.preview_login(account_id, None)
    return installation.token_issuer.by_login(login, TokenRequest(), address=None).token.text


def account(installation: Installation) -> str:
    name = unique("todo")
    installation.services.create(OPERATOR, name=name, scopes=[Scope(f"{name}:read")])
    grants = [Grant(f"{name}:read")]
    return installation.grants.create_account(OPERATOR, grants, username=unique("late")).id


def test_a_verifier_whose_clock_is_behind_takes_the_token(
    installation: Installation, time_machine_at: None
) -> None:
    text = issue(installation, account(installation))
    key = installation.signing_keys.current.public_pem(jwt.get_unverified_header(text)["kid"])
    decoded = jwt.decode(text, key, algorithms=["ES256"], options={"verify_aud": False}, leeway=0)
    assert decoded["auth_time"] <= decoded["iat"]


@pytest.fixture
def time_machine_at(installation: Installation) -> Iterator[None]:
    """A verifier's clock that is behind by as much as tokens are dated back."""
    import time_machine

    with time_machine.travel(installation.clock() - BACKDATE, tick=False):
        yield


def test_only_the_beginning_is_dated_back(installation: Installation) -> None:
    now = int(installation.clock())
    claims = claims_of(issue(installation, account(installation)))
    assert (claims["iat"], claims["exp"]) == (now - BACKDATE, now + 900)


def test_a_new_token_is_not_taken_for_one_that_was_revoked(installation: Installation) -> None:
    who = account(installation)
    assert isinstance(installation.clock, Clock)
    old = claims_of(issue(installation, who))
    installation.accounts.revoke_tokens(OPERATOR, who)
    (entry,) = [
        each for each in installation.revocation_list.published().revocations if each.value == who
    ]
    assert entry.issued_before is not None
    assert old["iat"] < entry.issued_before
    for seconds in range(1, 2 * BACKDATE):
        installation.clock.now += 1
        new = claims_of(issue(installation, who))
        assert entry.issued_before <= new["iat"] <= installation.clock(), seconds


def test_a_key_that_was_revoked_leaves_the_next_one_alone(installation: Installation) -> None:
    """The entry of an API key is for whatever it gave so far; another key has its own id."""
    who = account(installation)
    assert isinstance(installation.clock, Clock)
    first, second = (
        installation.api_keys.create(OPERATOR, who, name=name).key.id for name in ("one", "two")
    )

    def by_key(key_id: str) -> str:
        login = installation.authentication.preview_login(who, key_id)
        return installation.token_issuer.by_login(login, TokenRequest(), address=None).token.text

    text = by_key(first)
    old = claims_of(text)
    installation.api_keys.change(OPERATOR, who, first, {"scopes": []})
    (entry,) = [
        each for each in installation.revocation_list.published().revocations if each.value == first
    ]
    assert entry.issued_before is not None
    assert old["iat"] < entry.issued_before
    with pytest.raises(BadToken):
        used(installation, text)
    for seconds in range(2 * BACKDATE):
        installation.clock.now += 1
        # A verifier goes by iat: what the key gives now must be outside of the entry.
        new = claims_of(by_key(first))
        assert entry.issued_before <= new["iat"] <= installation.clock(), seconds
        used(installation, by_key(second))


def used(installation: Installation, text: str) -> None:
    """Raise ``BadToken`` unless Keyosk itself takes the token."""
    verified = installation.tokens.verify(text, audience=None)
    for audience in verified.audiences:
        installation.authentication.by_token(verified, audience=audience)


def test_refreshed_and_exchanged_tokens_are_dated_back_too(installation: Installation) -> None:
    clock = installation.clock
    assert isinstance(clock, Clock)
    name, following = unique("front"), unique("back")
    backend = installation.grants.create_account(OPERATOR, [], username=unique("backend"))
    for each in (following, name):
        installation.services.create(
            OPERATOR,
            name=each,
            scopes=[Scope(f"{each}:read")],
            refresh_allowed=True,
            account=backend.username if each == name else None,
            exchanges=(Exchange(following),) if each == name else (),
        )
    grants = [Grant(f"{name}:read"), Grant(f"{following}:read")]
    who = installation.grants.create_account(OPERATOR, grants, username=unique("late")).id
    key = installation.api_keys.create(OPERATOR, who, name="one").key.id
    login = installation.authentication.preview_login(who, key)
    wanted = TokenRequest(scopes=(f"{name}:read", "offline_access"))
    first = installation.token_issuer.by_login(login, wanted)
    assert first.refresh_token is not None
    for _ in range(2):
        clock.now += 1
        now = int(clock())
        refreshed = installation.token_issuer.by_refresh_token(first.refresh_token, TokenRequest())
        assert claims_of(refreshed.token.text)["iat"] == now - BACKDATE
        actor = installation.authentication.preview_login(backend.id, None)
        exchanged = installation.token_issuer.by_exchange(
            actor, refreshed.token.text, TokenRequest(targets=(following,))
        )
        claims = claims_of(exchanged.token.text)
        assert (claims["iat"], claims["auth_time"] <= claims["iat"]) == (now - BACKDATE, True)
        used(installation, exchanged.token.text)
        first = refreshed
        assert first.refresh_token is not None


def test_signed_documents_are_dated_back_as_tokens_are(installation: Installation) -> None:
    now = int(installation.clock())
    client = app.create_app(installation).test_client()
    listed = client.get("/auth/revocations", headers={"Accept": "application/jwt"})
    claims = claims_of(listed.text.strip())
    assert claims["iat"] == now - BACKDATE
    assert claims["exp"] > now
    account(installation)
    installation.audit.seal()
    signatures = [each.signature for each in AuditStore(installation.database).checkpoints()]
    assert [claims_of(each)["iat"] for each in signatures] == [now - BACKDATE]
    assert installation.audit_verifier.verify().fault is None
