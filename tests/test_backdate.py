"""``iat`` dated back, for verifiers whose clocks are behind."""

import time
from collections.abc import Iterator
from dataclasses import replace

import jwt
import pytest

from installed import Clock, settings
from keyosk import app
from keyosk.installation import Installation
from keyosk.model import OPERATOR, Grant, Scope
from keyosk.tokens.issuing import TokenRequest
from live import unique

BACKDATE = 4


@pytest.fixture
def installation(prepared_url: str) -> Iterator[Installation]:
    """One whose clock is right and whose tokens are dated back."""
    config = replace(settings(prepared_url), token_backdate=BACKDATE)
    made = app.build(config, clock=Clock(int(time.time())))
    yield made
    made.database.close()


def issue(installation: Installation, account_id: str) -> str:
    login = installation.authentication.preview_login(account_id, None)
    return installation.issuing.by_login(login, TokenRequest(), address=None).token.text


def account(installation: Installation) -> str:
    name = unique("todo")
    installation.services.create(OPERATOR, name=name, scopes=[Scope(f"{name}:read")])
    grants = [Grant(f"{name}:read")]
    return installation.grants.create_account(OPERATOR, grants, username=unique("late")).id


def claims(text: str) -> dict[str, int]:
    found: dict[str, int] = jwt.decode(text, options={"verify_signature": False})
    return found


def test_a_verifier_whose_clock_is_behind_takes_the_token(
    installation: Installation, time_machine_at: None
) -> None:
    text = issue(installation, account(installation))
    key = installation.signing_keys.public_pem(jwt.get_unverified_header(text)["kid"])
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
    found = claims(issue(installation, account(installation)))
    assert (found["iat"], found["exp"]) == (now - BACKDATE, now + 900)


def test_a_new_token_is_not_taken_for_one_that_was_revoked(installation: Installation) -> None:
    who = account(installation)
    assert isinstance(installation.clock, Clock)
    old = claims(issue(installation, who))
    installation.accounts.revoke_tokens(OPERATOR, who)
    (entry,) = [
        each for each in installation.revocations.published().revocations if each.value == who
    ]
    assert entry.issued_before is not None
    assert old["iat"] < entry.issued_before
    for seconds in range(1, 2 * BACKDATE):
        installation.clock.now += 1
        new = claims(issue(installation, who))
        assert entry.issued_before <= new["iat"] <= installation.clock(), seconds
