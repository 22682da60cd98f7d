"""Keys as such: RFC vectors, names, public forms, and the safe that private keys lie in."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from keyosk.errors import WrongSecretKey
from keyosk.keys import material
from keyosk.keys.material import Safe
from keyosk.model import COMMON_ALGORITHMS
from tables import table

# A busy machine may take its time over one example.
thorough = settings(max_examples=60, deadline=None)
VECTORS = json.loads((Path(__file__).parent / "vectors" / "rfc_jose.json").read_text())
PRIVATE_MEMBERS = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}  # RFC 7518 sections 6.2 to 6.4
SECRET = "the first secret key of these tests, long enough"
OTHER = "another secret key of these tests, as long as that"
KID = "the-kid-of-a-key"


class _Keys(dict[str, Any]):
    """RSA is slow to make: one key of each algorithm serves all tests, from the first use on."""

    def __missing__(self, algorithm: str) -> Any:
        self[algorithm] = material.generate(algorithm)
        return self[algorithm]


KEYS = _Keys()
every_algorithm = pytest.mark.parametrize("algorithm", COMMON_ALGORITHMS)


def public_half(jwk: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in jwk.items() if name not in PRIVATE_MEMBERS}


def private_bytes(key: Any) -> bytes:
    encoded: bytes = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return encoded


def private_numbers(key: Any) -> list[bytes]:
    """Every number of a private key that must stay secret, as bytes."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return [key.private_bytes_raw()]
    numbers = key.private_numbers()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        secret = [numbers.private_value]
    else:
        secret = [numbers.d, numbers.p, numbers.q, numbers.dmp1, numbers.dmq1, numbers.iqmp]
    return [number.to_bytes((number.bit_length() + 7) // 8) for number in secret]


# --- Thumbprints (RFC 7638) -----------------------------------------------------------------------


@table("name", ["rfc7638_3_1", "rfc8037_A"])
def test_the_thumbprint_is_that_of_the_rfc(name: str) -> None:
    vector = VECTORS[name]
    assert material.thumbprint(vector["jwk"]) == vector["thumbprint"]


@table("name", ["rfc7638_3_1", "rfc8037_A"])
def test_members_that_do_not_make_the_key_do_not_make_its_thumbprint(name: str) -> None:
    vector = VECTORS[name]
    decorated = {**vector["jwk"], "kid": "any", "use": "sig", "alg": "any", "x5t": "any"}
    backwards = dict(reversed(decorated.items()))
    assert material.thumbprint(backwards) == vector["thumbprint"]


@every_algorithm
def test_a_key_is_named_by_the_thumbprint_of_its_public_half(algorithm: str) -> None:
    jwk = material.public_jwk(KEYS[algorithm], algorithm)
    members = {"EC": "crv kty x y", "RSA": "e kty n", "OKP": "crv kty x"}[jwk["kty"]].split()
    canonical = "{" + ",".join(f'"{name}":"{jwk[name]}"' for name in members) + "}"
    digest = hashlib.sha256(canonical.encode()).digest()
    assert jwk["kid"] == base64.urlsafe_b64encode(digest).decode().rstrip("=")


# --- Signatures (RFC 7515, RFC 8037) --------------------------------------------------------------


@table(
    ("name", "algorithm"),
    [("rfc7515_A2_RS256", "RS256"), ("rfc7515_A3_ES256", "ES256"), ("rfc8037_A", "EdDSA")],
)
def test_a_signature_of_the_rfc_verifies_by_the_key_of_its_jwk(name: str, algorithm: str) -> None:
    vector = VECTORS[name]
    key: Any = material.public_key(public_half(vector["jwk"]))
    payload = jwt.PyJWS().decode(vector["jws"], key, algorithms=[algorithm])
    expected = vector["jws"].split(".")[1]
    assert base64.urlsafe_b64encode(payload).decode().rstrip("=") == expected


@table(
    ("name", "algorithm"),
    [("rfc7515_A2_RS256", "RS256"), ("rfc7515_A3_ES256", "ES256"), ("rfc8037_A", "EdDSA")],
)
@table("part", [1, 2])
def test_an_rfc_signature_fails_for_one_character(name: str, algorithm: str, part: int) -> None:
    vector = VECTORS[name]
    key: Any = material.public_key(public_half(vector["jwk"]))
    parts = vector["jws"].split(".")
    parts[part] = parts[part][:9] + ("A" if parts[part][9] != "A" else "B") + parts[part][10:]
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.PyJWS().decode(".".join(parts), key, algorithms=[algorithm])


@pytest.mark.attack
@pytest.mark.parametrize("name", ["rfc7515_A1_HS256", "rfc7515_A5_none"])
@every_algorithm
def test_a_verifier_of_ours_refuses_none_and_hs256(name: str, algorithm: str) -> None:
    key: Any = KEYS[algorithm].public_key()
    with pytest.raises(jwt.InvalidAlgorithmError):
        jwt.PyJWS().decode(VECTORS[name]["jws"], key, algorithms=[algorithm])


def test_eddsa_signs_the_input_of_the_rfc_into_the_very_token_of_the_rfc() -> None:
    vector = VECTORS["rfc8037_A"]
    seed = base64.urlsafe_b64decode(vector["jwk"]["d"] + "=")
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    head, payload, signature = vector["jws"].split(".")
    signed = key.sign(f"{head}.{payload}".encode())
    assert base64.urlsafe_b64encode(signed).decode().rstrip("=") == signature
    assert material.public_jwk(key, "EdDSA")["x"] == vector["jwk"]["x"]
    # Through the library that signs our tokens, the payload being the RFC's own bytes.
    message = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    token = jwt.PyJWS().encode(message, key, algorithm="EdDSA", headers={"typ": None})
    assert jwt.PyJWS().decode(token, key.public_key(), algorithms=["EdDSA"]) == message


# --- Public forms ---------------------------------------------------------------------------------


@every_algorithm
def test_a_public_jwk_has_the_members_that_verifiers_want_and_no_others(algorithm: str) -> None:
    jwk = material.public_jwk(KEYS[algorithm], algorithm)
    numbers = {
        "ES256": {"crv", "x", "y"},
        "RS256": {"n", "e"},
        "PS256": {"n", "e"},
        "EdDSA": {"crv", "x"},
    }[algorithm]
    assert jwk.keys() == {"kty", "kid", "use", "alg"} | numbers
    assert (jwk["use"], jwk["alg"]) == ("sig", algorithm)


@every_algorithm
def test_the_jwk_of_a_private_key_holds_none_of_its_private_numbers(algorithm: str) -> None:
    key = KEYS[algorithm]
    jwk = material.public_jwk(key, algorithm)
    shown = [
        base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
        for name, value in jwk.items()
        if name in ("n", "e", "x", "y")
    ]
    assert shown
    assert not set(shown) & set(private_numbers(key))
    assert not jwk.keys() & PRIVATE_MEMBERS
    assert jwk == material.public_jwk(key.public_key(), algorithm)


@every_algorithm
def test_a_public_jwk_and_its_pem_give_the_same_key_back(algorithm: str) -> None:
    public = KEYS[algorithm].public_key()
    jwk = material.public_jwk(public, algorithm)
    assert material.public_key(jwk) == public
    pem = material.public_pem(jwk)
    assert pem.startswith("-----BEGIN PUBLIC KEY-----\n")
    assert serialization.load_pem_public_key(pem.encode()) == public


def test_the_coordinates_of_an_ec_key_keep_their_leading_zeros() -> None:
    # RFC 7518 section 6.2.1.2: always 32 octets. About one key in 128 has a zero in front.
    for _ in range(5_000):
        key = material.generate("ES256")
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        point = key.public_key().public_numbers()
        if min(point.x, point.y) < 1 << 248:
            break
    else:
        pytest.fail("5,000 keys without a short coordinate")
    jwk = material.public_jwk(key, "ES256")
    assert (len(jwk["x"]), len(jwk["y"])) == (43, 43)
    assert material.public_key(jwk) == key.public_key()


def test_generated_keys_are_of_the_strength_that_128_bits_need() -> None:
    assert isinstance(KEYS["ES256"], ec.EllipticCurvePrivateKey)
    assert KEYS["ES256"].curve.name == "secp256r1"
    for algorithm in ("RS256", "PS256"):
        key = KEYS[algorithm]
        assert isinstance(key, rsa.RSAPrivateKey)
        assert key.key_size == 3072
        assert key.public_key().public_numbers().e == 65537
    assert isinstance(KEYS["EdDSA"], ed25519.Ed25519PrivateKey)


def test_an_algorithm_that_is_not_offered_makes_no_key() -> None:
    for name in ("HS256", "none", "ES512", "Ed25519", ""):
        with pytest.raises(ValueError, match="unknown algorithm"):
            material.generate(name)


# --- The safe -------------------------------------------------------------------------------------


@every_algorithm
def test_a_private_key_comes_out_of_the_safe_as_it_went_in(algorithm: str) -> None:
    safe = Safe([SECRET])
    opened = safe.open_private_key(safe.seal_private_key(KEYS[algorithm], KID), KID)
    assert private_bytes(opened) == private_bytes(KEYS[algorithm])


@every_algorithm
def test_a_sealed_private_key_shows_none_of_its_private_numbers(algorithm: str) -> None:
    sealed = Safe([SECRET]).seal_private_key(KEYS[algorithm], KID)
    for number in private_numbers(KEYS[algorithm]):
        assert number[:16] not in sealed
        assert base64.b64encode(number)[:16] not in sealed


@pytest.mark.attack
def test_a_private_key_moved_to_another_row_does_not_open() -> None:
    safe = Safe([SECRET])
    sealed = safe.seal_private_key(KEYS["ES256"], KID)
    with pytest.raises(WrongSecretKey):
        safe.open_private_key(sealed, "the-kid-of-another")


def test_another_secret_key_does_not_open_and_says_what_to_do() -> None:
    sealed = Safe([SECRET]).seal(b"something private", name=KID)
    with pytest.raises(WrongSecretKey, match="KEYOSK_SECRET_KEY") as caught:
        Safe([OTHER]).open(sealed, name=KID)
    said = str(caught.value)
    assert SECRET not in said
    assert OTHER not in said


def test_the_first_of_several_secret_keys_encrypts_and_all_of_them_decrypt() -> None:
    old, new = Safe([OTHER]), Safe([SECRET])
    both = Safe([SECRET, OTHER])
    assert both.open(old.seal(b"old", name=KID), name=KID) == b"old"
    assert both.open(new.seal(b"new", name=KID), name=KID) == b"new"
    fresh = both.seal(b"fresh", name=KID)
    assert new.open(fresh, name=KID) == b"fresh"
    with pytest.raises(WrongSecretKey):
        old.open(fresh, name=KID)


def test_the_same_bytes_are_never_sealed_alike() -> None:
    safe = Safe([SECRET])
    assert len({safe.seal(b"the same", name=KID) for _ in range(200)}) == 200


def test_a_safe_without_a_secret_key_cannot_be() -> None:
    with pytest.raises(ValueError, match="secret key"):
        Safe([])


@thorough
@given(st.binary(max_size=200), st.text(alphabet="abc-_", max_size=10))
def test_whatever_is_sealed_opens_again_under_its_name(plain: bytes, name: str) -> None:
    safe = Safe([SECRET])
    assert safe.open(safe.seal(plain, name=name), name=name) == plain


@pytest.mark.attack
@thorough
@given(st.binary(max_size=50), st.data())
def test_one_flipped_bit_anywhere_makes_it_unreadable(plain: bytes, data: st.DataObject) -> None:
    safe = Safe([SECRET])
    sealed = bytearray(safe.seal(plain, name=KID))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(WrongSecretKey):
        safe.open(bytes(sealed), name=KID)


@pytest.mark.attack
@thorough
@given(st.binary(max_size=50), st.data())
def test_a_cut_off_ciphertext_is_refused_like_any_other(plain: bytes, data: st.DataObject) -> None:
    safe = Safe([SECRET])
    sealed = safe.seal(plain, name=KID)
    with pytest.raises(WrongSecretKey):
        safe.open(sealed[: data.draw(st.integers(0, len(sealed) - 1))], name=KID)


def test_new_secret_keys_are_of_32_random_bytes_and_pass_the_settings_own_check() -> None:
    secret_keys = {material.new_secret_key() for _ in range(100)}
    assert len(secret_keys) == 100
    assert {len(base64.urlsafe_b64decode(secret + "=")) for secret in secret_keys} == {32}
    assert {len(secret) for secret in secret_keys} == {43}  # the least that KEYOSK_SECRET_KEY takes


def test_a_private_key_in_the_program_has_no_repr_that_shows_it() -> None:
    for algorithm in COMMON_ALGORITHMS:
        key = KEYS[algorithm]
        shown = repr(key) + str(key) + repr(Safe([SECRET]))
        for number in private_numbers(key):
            assert str(int.from_bytes(number)) not in shown, algorithm
            assert number.hex() not in shown, algorithm
        assert SECRET not in shown
