"""A row of a signing key that cannot be read: it is told, and the other keys go on."""

import json
import logging
import time
from collections.abc import Iterator

import pytest

from installed import Clock, delays_noted, installed, rows_of
from installed import settings as settings_of
from keyosk import app
from keyosk.errors import DatabaseDamaged
from keyosk.installation import Installation
from keyosk.model import OPERATOR, KeyState, SigningKey
from tables import table

pytestmark = pytest.mark.every_database(always=True)

AHEAD, DAY = 900, 86_400
NO_KEY = "has a public half that is no public key"
JWK = {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA"}

#: What a row may have in place of what Keyosk wrote, and what is told of it.
DAMAGES = {
    "no JSON": ("public", "{", NO_KEY),
    "no object": ("public", "[]", NO_KEY),
    "nothing": ("public", "{}", NO_KEY),
    "no text": ("public", json.dumps(JWK | {"x": 1}), NO_KEY),
    "too short": ("public", json.dumps(JWK | {"x": "AAAA"}), NO_KEY),
    "another type": ("public", json.dumps(JWK | {"kty": ["OKP"], "x": "A" * 43}), NO_KEY),
    "another curve": ("public", json.dumps(JWK | {"crv": "X25519", "x": "A" * 43}), NO_KEY),
    "too deep": ("public", "[" * 100_000, NO_KEY),
    "another key": (
        "public",
        json.dumps(JWK | {"x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": "other"}),
        "has the public half of another key",
    ),
    "unknown algorithm": ("algorithm", "XX99", "is of an unknown algorithm"),
}


@pytest.fixture
def clock() -> Clock:
    return Clock(int(time.time()))


@pytest.fixture
def keyosk(prepared_url: str, clock: Clock) -> Iterator[Installation]:
    with installed(prepared_url, clock=clock) as made, delays_noted():
        yield made


def active(keyosk: Installation) -> SigningKey:
    (found,) = [key for key in keyosk.signing_keys.all() if key.state is KeyState.ACTIVE]
    return found


def damage(keyosk: Installation, kid: str, column: str, text: str) -> None:
    raw = keyosk.database.raw
    raw.execute_sql(
        f"UPDATE signing_key SET {column} = {raw.param} WHERE kid = {raw.param}",
        (text, kid),
    )


def published(keyosk: Installation) -> list[str]:
    return [key["kid"] for key in json.loads(keyosk.signing_keys.current.document.text)["keys"]]


@table("column, text, fault", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_key_is_told_and_the_others_go_on(
    keyosk: Installation, caplog: pytest.LogCaptureFixture, column: str, text: str, fault: str
) -> None:
    caplog.clear()
    signs = active(keyosk).kid
    new = keyosk.rotation.rotate(OPERATOR, "EdDSA").kid
    assert published(keyosk) == [signs, new]

    damage(keyosk, new, column, text)
    with caplog.at_level(logging.ERROR, "keyosk"):
        for _ in range(3):
            keyosk.signing_keys.refresh()

    assert published(keyosk) == [signs]
    assert keyosk.signing_keys.signer(None).kid == signs
    assert keyosk.signing_keys.verifier(new, published=False) is None
    assert new not in keyosk.signing_keys.current.of_registries.values()
    assert [record.getMessage() for record in caplog.records] == [f"signing key {new} {fault}"]
    assert keyosk.signing_keys.unreadable() == [f"{new} {fault}"]
    (told,) = [check for check in keyosk.diagnosis.checks() if check.part == "signing key"]
    assert told.found == f"{new} {fault}"
    assert len(keyosk.rotation.all()) == len(keyosk.signing_keys.last_read)

    keyosk.rotation.compromise(OPERATOR, new)
    assert keyosk.signing_keys.unreadable() == []


def test_a_damaged_key_never_takes_the_place_of_one_that_signs(
    keyosk: Installation, clock: Clock
) -> None:
    signs = active(keyosk).kid
    new = keyosk.rotation.rotate(OPERATOR).kid
    damage(keyosk, new, "public", "{")
    clock.now += AHEAD + DAY
    keyosk.key_schedule.advance()
    assert active(keyosk).kid == signs
    assert keyosk.signing_keys.signer(None).kid == signs


@table("column, text", [("public", "{"), ("algorithm", "XX99")])
def test_where_no_other_key_signs_it_is_told_and_can_be_replaced(
    keyosk: Installation, prepared_url: str, column: str, text: str
) -> None:
    kid = active(keyosk).kid
    damage(keyosk, kid, column, text)
    keyosk.signing_keys.refresh()
    with pytest.raises(DatabaseDamaged, match="There is no signing key") as caught:
        keyosk.signing_keys.confirmed()
    assert kid in caught.value.explanation

    keyosk.rotation.compromise(OPERATOR, kid)
    app.prepare(settings_of(prepared_url))
    keyosk.signing_keys.refresh()
    assert keyosk.signing_keys.signer(None).kid == active(keyosk).kid != kid
    assert keyosk.signing_keys.unreadable() == []


def test_a_service_whose_algorithm_has_only_a_damaged_key_gets_no_token_by_another(
    keyosk: Installation,
) -> None:
    other = keyosk.signing_keys.signer("EdDSA").kid
    damage(keyosk, other, "public", "{")
    keyosk.signing_keys.refresh()
    with pytest.raises(DatabaseDamaged, match="No key of EdDSA can be used"):
        keyosk.signing_keys.signer("EdDSA")
    assert keyosk.signing_keys.signer(None).kid != other


def test_a_key_in_an_unknown_state_stops_what_needs_to_know_it(keyosk: Installation) -> None:
    # It may be stolen. Until a restart, processes go on with what they read before.
    kid = keyosk.signing_keys.signer(None).kid
    damage(keyosk, kid, "state", "lent")
    for read in (keyosk.signing_keys.refresh, keyosk.rotation.all):
        with pytest.raises(DatabaseDamaged) as caught:
            read()
        assert f"the signing key {kid} is in no known state" in caught.value.explanation
    assert keyosk.signing_keys.signer(None).kid == kid
    assert rows_of(keyosk, "SELECT state FROM signing_key") == [("lent",)]
