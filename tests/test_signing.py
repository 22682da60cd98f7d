"""Signing keys as an installation keeps them, on both databases."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from installed import Clock, statements
from keyosk.errors import Conflict, NotFound, Unavailable, WrongSecretKey
from keyosk.keys import jws, material
from keyosk.keys.key_set import Signer
from keyosk.keys.material import Safe
from keyosk.keys.private_keys import PrivateKeys
from keyosk.keys.signing_keys import SigningKeys
from keyosk.model import COMMON_ALGORITHMS, KeyState, SigningKey
from keyosk.storage.database import Database
from keyosk.storage.signing_keys import SigningKeyStore

pytestmark = pytest.mark.every_database

NOW = 1_800_000_000
SECRET = "the secret key of these tests, which is long enough"

Open = Callable[..., SigningKeys]


@pytest.fixture
def open_keys(migrated_url: str) -> Iterator[Open]:
    """Opens the signing keys of one database, each time as another process would."""
    opened: list[Database] = []

    def open_them(
        *,
        secret: str = SECRET,
        algorithm: str = "ES256",
        clock: Callable[[], float] = lambda: NOW + 0.9,
    ) -> SigningKeys:
        database = Database(migrated_url)
        opened.append(database)
        return SigningKeys(
            SigningKeyStore(database, fault_of=material.fault_of),
            PrivateKeys(Safe([secret])),
            algorithm=algorithm,
            clock=clock,
        )

    yield open_them
    for database in opened:
        database.close()


@pytest.fixture
def store(open_keys: Open, migrated_url: str) -> Iterator[SigningKeyStore]:
    """The table itself, for keys in a state that this version does not make yet."""
    database = Database(migrated_url)
    yield SigningKeyStore(database, fault_of=material.fault_of)
    database.close()


def made(state: KeyState, created_at: int, algorithm: str = "ES256") -> SigningKey:
    private = material.generate(algorithm)
    public = material.public_jwk(private, algorithm)
    return SigningKey(
        kid=public["kid"],
        algorithm=algorithm,
        state=state,
        public=public,
        published_at=created_at,
        active_from=None,
        retired_at=None,
        created_at=created_at,
        sealed=Safe([SECRET]).seal_private_key(private, public["kid"]),
    )


def first_key(keys: SigningKeys) -> SigningKey:
    """The only key, made if need be."""
    keys.ensure()
    [key] = keys.all()
    return key


def test_without_a_key_there_is_no_set_and_nothing_to_sign_with(open_keys: Open) -> None:
    with pytest.raises(Unavailable):
        _ = open_keys().current


@pytest.mark.parametrize("algorithm", COMMON_ALGORITHMS)
def test_the_first_key_signs_at_once_and_is_published(open_keys: Open, algorithm: str) -> None:
    keys = open_keys(algorithm=algorithm)
    key = first_key(keys)
    assert (key.algorithm, key.state) == (algorithm, KeyState.ACTIVE)
    assert (key.created_at, key.published_at, key.active_from) == (NOW, NOW, NOW)
    assert json.loads(keys.current.document.text) == {"keys": [dict(key.public)]}
    signer = keys.signer(None)
    assert (signer.kid, signer.algorithm) == (key.kid, algorithm)
    private: Any = signer.key
    token = jwt.encode({"a": 1}, private, algorithm=algorithm)
    verifier = keys.current.verifiers[key.kid]
    public: Any = verifier.key
    assert jwt.decode(token, public, algorithms=[verifier.algorithm]) == {"a": 1}
    assert keys.current.public_pem(key.kid) == material.public_pem(key.public)


def test_a_key_is_made_once_and_kept_over_restarts(open_keys: Open) -> None:
    key = first_key(open_keys())
    for _ in range(2):
        restarted = open_keys()
        restarted.ensure()
        assert restarted.signer(None).kid == key.kid
        assert restarted.all() == (key,)


def test_what_one_process_signs_every_other_verifies(open_keys: Open) -> None:
    one, other = open_keys(), open_keys()
    one.ensure()
    signer = one.signer(None)
    private: Any = signer.key
    token = jwt.encode({"a": 1}, private, algorithm=signer.algorithm)
    verifier = other.current.verifiers[signer.kid]
    public: Any = verifier.key
    assert jwt.decode(token, public, algorithms=[verifier.algorithm]) == {"a": 1}


@pytest.mark.fault
def test_processes_that_find_no_key_leave_exactly_one(open_keys: Open, migrated_url: str) -> None:
    racers = 6
    together = Barrier(racers)

    def ensure(_: int) -> str:
        database = Database(migrated_url)
        keys = SigningKeys(
            SigningKeyStore(database, fault_of=material.fault_of),
            PrivateKeys(Safe([SECRET])),
            algorithm="ES256",
            clock=lambda: NOW,
        )
        with pytest.raises(Unavailable):
            keys.current.document  # noqa: B018  # connected, and no key is there
        together.wait(60)
        try:
            keys.ensure()
            return keys.signer(None).kid
        finally:
            database.close()

    with ThreadPoolExecutor(racers) as pool:
        kids = list(pool.map(ensure, range(racers)))
    # Whoever came too late signs with the key of the one that did not.
    assert kids == [first_key(open_keys()).kid] * racers


def test_the_database_holds_at_most_one_active_key_of_an_algorithm(
    open_keys: Open, store: SigningKeyStore
) -> None:
    open_keys().ensure()
    with pytest.raises(Conflict):
        store.add(made(KeyState.ACTIVE, NOW))
    store.add(made(KeyState.NEXT, NOW))
    store.add(made(KeyState.ACTIVE, NOW, "EdDSA"))
    assert len(store.all()) == 3


def test_the_set_has_the_active_key_first_then_the_next_then_the_retired(
    open_keys: Open, store: SigningKeyStore
) -> None:
    retired_old = made(KeyState.RETIRED, NOW - 30)
    retired_new = made(KeyState.RETIRED, NOW - 20)
    following = made(KeyState.NEXT, NOW - 1)
    active = made(KeyState.ACTIVE, NOW - 10)
    compromised = made(KeyState.COMPROMISED, NOW - 5)
    for key in (retired_old, following, compromised, retired_new, active):
        store.add(key)
    keys = open_keys()
    document = json.loads(keys.current.document.text)
    order = [key["kid"] for key in document["keys"]]
    assert order == [active.kid, following.kid, retired_new.kid, retired_old.kid]
    assert keys.signer(None).kid == active.kid
    assert keys.current.verifiers.keys() == set(order)


def test_a_compromised_key_is_neither_published_nor_verified_with(
    open_keys: Open, store: SigningKeyStore
) -> None:
    bad = made(KeyState.COMPROMISED, NOW)
    store.add(bad)
    keys = open_keys()
    keys.ensure()
    assert bad.kid in {key.kid for key in keys.all()}
    assert bad.kid not in keys.current.verifiers
    assert bad.kid.encode() not in keys.current.document.text
    with pytest.raises(NotFound):
        keys.current.public_pem(bad.kid)


def test_who_asked_before_the_database_was_asked_shares_its_answer(open_keys: Open) -> None:
    keys = open_keys()
    keys.ensure()
    keys.confirmed()
    early = time.monotonic()
    with statements() as sent:
        for _ in range(5):
            assert keys.confirmed(early) == (keys.current, True)
        assert len(sent) == 1
        keys.confirmed(time.monotonic())
        keys.confirmed()
        assert len(sent) == 3


def test_who_asks_once_a_key_is_known_to_be_stolen_gets_a_set_without_it(
    open_keys: Open, store: SigningKeyStore
) -> None:
    key = made(KeyState.RETIRED, NOW)
    store.add(key)
    keys = open_keys()
    keys.ensure()
    early = time.monotonic()
    for _ in range(3):
        found, confirmed = keys.confirmed(early)
        assert confirmed
        assert key.kid in found.verifiers
    store.change(key.kid, state=KeyState.COMPROMISED, sealed=b"")
    late = time.monotonic()
    for since in (late, late, early):
        found, confirmed = keys.confirmed(since)
        assert confirmed
        assert key.kid not in found.verifiers


def test_published_keys_are_all_there_active_first(open_keys: Open, store: SigningKeyStore) -> None:
    active = made(KeyState.ACTIVE, NOW - 100)
    store.add(active)
    for age in range(7):
        store.add(made(KeyState.RETIRED, NOW - age))
    document = json.loads(open_keys().current.document.text)
    assert len(document["keys"]) == 8
    assert document["keys"][0]["kid"] == active.kid


def test_no_private_number_is_in_the_document_or_in_any_repr(open_keys: Open) -> None:
    keys = open_keys()
    key = first_key(keys)
    signer = keys.signer(None)
    secret = signer.key.private_numbers().private_value  # type: ignore[union-attr]
    shown = keys.current.document.text.decode() + repr(key) + repr(keys.current) + repr(signer)
    assert key.kid in shown
    assert '"d"' not in shown
    assert str(secret) not in shown
    assert f"{secret:x}" not in shown
    assert repr(key.sealed) not in shown


def test_another_secret_key_is_refused_and_makes_no_second_signing_key(
    open_keys: Open, store: SigningKeyStore
) -> None:
    open_keys().ensure()
    other = open_keys(secret="another secret key, which is just as long as it")
    with pytest.raises(WrongSecretKey, match="KEYOSK_SECRET_KEY"):
        other.ensure()
    with pytest.raises(WrongSecretKey):
        other.refresh()
    assert len(store.all()) == 1


@pytest.mark.attack
def test_a_private_key_put_into_the_row_of_another_does_not_sign(
    open_keys: Open, store: SigningKeyStore
) -> None:
    # Who can write the database but not read the secret key must not choose the key that signs.
    key, decoy = made(KeyState.ACTIVE, NOW), made(KeyState.RETIRED, NOW)
    forged = SigningKey(
        **{
            name: getattr(key, name) for name in SigningKey.__dataclass_fields__ if name != "sealed"
        },
        sealed=decoy.sealed,
    )
    store.add(forged)
    with pytest.raises(WrongSecretKey):
        open_keys().refresh()


def test_another_process_s_key_is_seen_by_refresh(open_keys: Open, store: SigningKeyStore) -> None:
    keys = open_keys()
    keys.ensure()
    following = made(KeyState.NEXT, NOW)
    store.add(following)
    assert following.kid not in keys.current.verifiers
    keys.refresh()
    assert following.kid in keys.current.verifiers


def test_another_process_s_key_is_seen_in_a_second(open_keys: Open, store: SigningKeyStore) -> None:
    clock = Clock(NOW)
    keys = open_keys(clock=clock)
    keys.ensure()
    following = made(KeyState.NEXT, NOW)
    store.add(following)
    clock.now += 0.9
    assert following.kid not in keys.current.verifiers
    clock.now += 0.1
    assert following.kid in keys.current.verifiers


def test_a_service_of_another_algorithm_gets_a_key_when_it_needs_one(open_keys: Open) -> None:
    keys, other = open_keys(), open_keys()
    keys.ensure()
    signers = {algorithm: keys.signer(algorithm) for algorithm in (None, "ES256", "EdDSA")}
    assert signers[None] == signers["ES256"]
    assert {name: signer.algorithm for name, signer in signers.items() if name} == {
        "ES256": "ES256",
        "EdDSA": "EdDSA",
    }
    assert len(keys.all()) == 2
    # The installation's own stands first, and both are published.
    kids = [key["kid"] for key in json.loads(keys.current.document.text)["keys"]]
    assert kids == [signers["ES256"].kid, signers["EdDSA"].kid]
    # Every other process signs with the very same ones.
    assert other.signer("EdDSA").kid == signers["EdDSA"].kid
    assert other.signer(None).kid == signers[None].kid


@pytest.mark.parametrize(
    ("algorithm", "bits"),
    [
        *((algorithm, None) for algorithm in sorted(material.SIGNATURE_BYTES)),
        # Keys that were imported may have another size.
        *((algorithm, bits) for algorithm in ("PS256", "RS256") for bits in (2048, 4096)),
    ],
)
def test_the_length_of_a_token_is_known_without_signing(
    algorithm: str, bits: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = {"sub": "alice", "scope": "todo:read"}
    key = rsa.generate_private_key(65537, bits) if bits else material.generate(algorithm)
    public = material.public_jwk(key, algorithm)
    signer = Signer(public["kid"], algorithm, key, 0, public)
    text = jws.signed(signer, claims, "at+jwt")
    monkeypatch.setattr(jws, "ALGORITHMS", {})
    assert jws.length(signer, claims, "at+jwt") == len(text)
    if bits is None:
        assert jws.expected_length(algorithm, claims, "at+jwt") == len(text)


def test_the_pem_of_an_unknown_key_is_not_found(open_keys: Open) -> None:
    keys = open_keys()
    keys.ensure()
    with pytest.raises(NotFound):
        keys.current.public_pem("A" * 43)
