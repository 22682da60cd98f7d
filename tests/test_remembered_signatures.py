"""A signature that was found right is not computed again, and nothing else is taken for granted."""

import sys
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from installed import Clock, installed
from keyosk.errors import BadToken
from keyosk.installation import Installation
from keyosk.keys.jws import Remembered
from keyosk.model import KEYOSK, OPERATOR
from keyosk.tokens.issuing import TokenRequest

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keyosk(prepared_url: str, clock: Clock) -> Iterator[Installation]:
    with installed(prepared_url, clock=clock) as made:
        yield made


@pytest.fixture
def token(keyosk: Installation) -> str:
    """A token that was verified already."""
    account = keyosk.accounts.get("admin")
    login = keyosk.authentication.preview_login(account.id, None, to_issue=True)
    asked = TokenRequest(targets=(KEYOSK,))
    text = keyosk.token_issuer.by_operator(OPERATOR, login, asked).token.text
    keyosk.tokens.verify(text, audience=KEYOSK)
    return text


def signatures_computed(action: Callable[[], object]) -> int:
    """How many signatures PyJWT verified meanwhile."""
    count = 0

    def seen(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        code = frame.f_code
        count += event == "call" and code.co_name == "verify" and "jwt" in code.co_filename

    sys.setprofile(seen)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def test_a_signature_is_computed_once(keyosk: Installation, token: str) -> None:
    assert signatures_computed(lambda: keyosk.tokens.verify(token, audience=KEYOSK)) == 0


def test_no_token_that_differs_in_any_character_passes(keyosk: Installation, token: str) -> None:
    forged = ""
    for place, character in enumerate(token):
        other = ALPHABET[(ALPHABET.find(character) + 1) % len(ALPHABET)]
        forged = token[:place] + other + token[place + 1 :]
        with pytest.raises(BadToken):
            keyosk.tokens.verify(forged, audience=KEYOSK)
    # A forgery is not remembered either.
    with pytest.raises(BadToken):
        keyosk.tokens.verify(forged, audience=KEYOSK)
    keyosk.tokens.verify(token, audience=KEYOSK)


def test_it_passes_no_longer_than_its_key(keyosk: Installation, token: str) -> None:
    keyosk.rotation.compromise(OPERATOR, keyosk.signing_keys.current.default.kid)
    with pytest.raises(BadToken):
        keyosk.tokens.verify(token, audience=KEYOSK)


def test_it_passes_while_it_is_valid(keyosk: Installation, token: str, clock: Clock) -> None:
    clock.now += 3600
    with pytest.raises(BadToken, match="expired"):
        keyosk.tokens.verify(token, audience=KEYOSK)


def test_it_passes_for_its_audience_only(keyosk: Installation, token: str) -> None:
    with pytest.raises(BadToken):
        keyosk.tokens.verify(token, audience="elsewhere")


def test_the_oldest_makes_room() -> None:
    remembered = Remembered(3)
    for number in range(10):
        remembered.add(bytes([number]))
        remembered.add(bytes([number]))
    assert len(remembered) == 3
    assert [number for number in range(10) if bytes([number]) in remembered] == [7, 8, 9]
