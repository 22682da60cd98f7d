"""keyosk-client: the stand-in for Keyosk in the tests of a service."""

import pytest

from client_issuer import AUDIENCE, ISSUER
from keyosk_client import (
    InsufficientScope,
    InvalidToken,
    KeysUnavailable,
    TokenSource,
    Verifier,
    http,
)
from keyosk_client.pytest_plugin import fake_keyosk  # noqa: F401 - a fixture
from keyosk_client.testing import FakeKeyosk


@pytest.fixture
def keyosk_issuer() -> str:
    return ISSUER


@pytest.fixture
def keyosk_audience() -> str:
    return AUDIENCE


#: As a service has it: made when its module is imported, before any test runs.
verifier = Verifier(ISSUER, AUDIENCE)


def test_a_service_is_tested_without_a_server(fake_keyosk: FakeKeyosk) -> None:  # noqa: F811
    text = fake_keyosk.token(scopes=["todo:read"], tenant="t1")
    token = verifier.authorize(fake_keyosk.header(text)["Authorization"], "todo:read")
    assert (token.username, token.claims["tenant"]) == ("alice", "t1")
    with pytest.raises(InsufficientScope):
        verifier.authorize(f"Bearer {text}", "todo:write")
    other = fake_keyosk.token(subject="bob")
    fake_keyosk.revoke(text)
    with pytest.raises(InvalidToken, match="revoked"):
        verifier.verify(text)
    assert verifier.verify(other).subject == "bob"


def test_a_token_of_one_test_is_good_in_no_other(fake_keyosk: FakeKeyosk) -> None:  # noqa: F811
    verifier.verify(fake_keyosk.token())
    for other in (ISSUER, "https://other.example"):
        foreign = FakeKeyosk(other, AUDIENCE).token()
        with pytest.raises(InvalidToken):
            verifier.verify(foreign)
    for claims in ({"aud": "billing"}, {"iss": "https://other.example"}, {"lifetime": -60}):
        with pytest.raises(InvalidToken):
            verifier.verify(fake_keyosk.token(**claims))


def test_it_may_be_away(fake_keyosk: FakeKeyosk) -> None:  # noqa: F811
    fake_keyosk.available = False
    with pytest.raises(KeysUnavailable):
        verifier.verify(fake_keyosk.token())


def test_it_issues_tokens_to_programs(fake_keyosk: FakeKeyosk) -> None:  # noqa: F811
    source = TokenSource(ISSUER, "backend", secret="x", audience=AUDIENCE, scope="todo:read")
    verifier.verify(source.token()).require("todo:read")


def test_it_has_no_other_endpoints(fake_keyosk: FakeKeyosk) -> None:  # noqa: F811
    with http.client(ISSUER, tls=None, owner=fake_keyosk) as client:
        assert client.get(f"{ISSUER}/accounts").status_code == 404


def test_it_refuses_to_start_outside_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyosk_client.testing._TEST_RUNNERS", ("no such module",))
    with pytest.raises(RuntimeError, match="for tests only"):
        FakeKeyosk(ISSUER, AUDIENCE)
    FakeKeyosk(ISSUER, AUDIENCE, outside_tests=True)
