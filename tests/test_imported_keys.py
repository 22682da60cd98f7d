"""Private keys from elsewhere: which are taken, for what, and which are refused."""

import base64
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keyosk.errors import Invalid
from keyosk.keys import imported_keys, material
from live import Client
from people import assert_refused, ok
from tables import table

Jwk = dict[str, Any]


def b64(number: int) -> str:
    raw = number.to_bytes((number.bit_length() + 7) // 8)
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def numbers_of(key: rsa.RSAPrivateKey) -> dict[str, int]:
    private = key.private_numbers()
    public = private.public_numbers
    return {
        "n": public.n,
        "e": public.e,
        "d": private.d,
        "p": private.p,
        "q": private.q,
        "dp": private.dmp1,
        "dq": private.dmq1,
        "qi": private.iqmp,
    }


def rsa_jwk(numbers: Mapping[str, int], **more: Any) -> Jwk:
    return {"kty": "RSA", **{name: b64(number) for name, number in numbers.items()}, **more}


def but(jwk: Jwk, *missing: str, **changes: Any) -> Jwk:
    return {name: value for name, value in {**jwk, **changes}.items() if name not in missing}


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def jwk(key: rsa.RSAPrivateKey) -> Jwk:
    return rsa_jwk(numbers_of(key))


def read(jwk: Jwk, algorithm: str | None = None) -> str:
    return imported_keys.read(json.dumps(jwk), algorithm)[1]


def fields(jwk: Jwk, algorithm: str | None = None) -> list[str]:
    with pytest.raises(Invalid) as refusal:
        read(jwk, algorithm)
    assert refusal.value.__context__ is None  # which might hold the key
    return [fault.field for fault in refusal.value.faults]


# --- What a JWK says of itself --------------------------------------------------------------------


def test_a_jwk_is_imported_for_the_algorithm_that_it_names(jwk: Jwk) -> None:
    assert read(but(jwk, alg="PS256")) == "PS256"
    assert read(but(jwk, alg="RS256")) == "RS256"
    assert read(jwk) == "RS256"
    assert read(jwk, "PS256") == "PS256"
    assert read(but(jwk, alg="PS256"), "PS256") == "PS256"


def test_an_algorithm_other_than_the_one_that_the_jwk_names_is_refused(jwk: Jwk) -> None:
    assert fields(but(jwk, alg="PS256"), "RS256") == ["algorithm"]
    assert fields(but(jwk, alg="RS256"), "PS256") == ["algorithm"]


@table(
    "alg", ["RS384", "RS512", "PS512", "RSA-OAEP", "RSA-OAEP-256", "ES256", "HS256", "none", "",
            "ps256", "EdDSA", 1, None, ["PS256"]],
)  # fmt: skip
def test_a_jwk_that_names_an_algorithm_of_no_use_here_is_refused(jwk: Jwk, alg: Any) -> None:
    assert fields(but(jwk, alg=alg)) == ["private_key"]


@table(
    "members",
    [
        {"use": "enc"},
        {"use": "sign"},
        {"use": ""},
        {"use": None},
        {"key_ops": ["decrypt", "unwrapKey"]},
        {"key_ops": ["verify"]},
        {"key_ops": ["sign", "decrypt"]},
        {"key_ops": ["sign", "sign"]},
        {"key_ops": []},
        {"key_ops": "sign"},
        {"use": "sig", "key_ops": ["encrypt"]},
    ],
    ids=str,
)
def test_a_jwk_for_something_else_than_signing_is_refused(jwk: Jwk, members: Jwk) -> None:
    assert fields({**jwk, **members}) == ["private_key"]


@table(
    "members", [{"use": "sig"}, {"key_ops": ["sign"]}, {"key_ops": ["sign", "verify"], "ext": True}]
)
def test_a_jwk_for_signing_is_taken(jwk: Jwk, members: Jwk) -> None:
    assert read({**jwk, **members}) == "RS256"


def test_the_other_kinds_of_keys_are_taken_by_their_own_names_only() -> None:
    numbers = ec.generate_private_key(ec.SECP256R1()).private_numbers()
    point = numbers.public_numbers
    elliptic = {"kty": "EC", "crv": "P-256", "x": b64(point.x), "y": b64(point.y)}
    elliptic["d"] = b64(numbers.private_value)
    edwards = ed25519.Ed25519PrivateKey.generate()
    raw = edwards.private_bytes_raw(), edwards.public_key().public_bytes_raw()
    d, x = (base64.urlsafe_b64encode(each).rstrip(b"=").decode() for each in raw)
    octets = {"kty": "OKP", "crv": "Ed25519", "d": d, "x": x}
    assert (read(but(elliptic, alg="ES256")), read(but(octets, alg="EdDSA"))) == ("ES256", "EdDSA")
    assert read(but(octets, alg="Ed25519")) == "EdDSA"  # RFC 9864
    assert fields(but(elliptic, alg="ES384")) == ["private_key"]
    assert fields(but(elliptic, alg="ECDH-ES")) == ["private_key"]
    assert fields(but(octets, alg="ES256")) == ["private_key"]


def test_a_pem_for_pss_alone_becomes_no_rs256_key(key: rsa.RSAPrivateKey) -> None:
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    plain = bytes.fromhex("300d06092a864886f70d0101010500")
    assert plain in der
    head, rest = der.split(plain, 1)
    body = head[4:] + bytes.fromhex("300b06092a864886f70d01010a") + rest
    pss = b"\x30\x82" + len(body).to_bytes(2) + body
    text = "-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(pss).decode()
    text += "-----END PRIVATE KEY-----\n"
    assert imported_keys.read(text, None)[1] == "PS256"
    with pytest.raises(Invalid):
        imported_keys.read(text, "RS256")


# --- RSA ------------------------------------------------------------------------------------------


@table("bits", [2048, 3072])
def test_an_rsa_jwk_of_n_e_and_d_alone_is_taken(bits: int) -> None:
    private_key = rsa.generate_private_key(65537, bits)
    jwk = rsa_jwk({name: numbers_of(private_key)[name] for name in ("n", "e", "d")})
    imported, _ = imported_keys.read(json.dumps(jwk), None)
    assert isinstance(imported, rsa.RSAPrivateKey)
    assert material.public_jwk(imported, "RS256") == material.public_jwk(private_key, "RS256")
    own = imported.private_numbers()
    assert own.p * own.q == own.public_numbers.n


#: What is wrong with the numbers of a key, given those of a sound one.
WRONG: Mapping[str, Callable[[dict[str, int]], dict[str, int]]] = {
    "d is 1": lambda _: {"d": 1},
    "d is 1 and e fits it": lambda k: {"d": 1, "e": 1 + math.lcm(k["p"] - 1, k["q"] - 1)},
    "d is 0": lambda _: {"d": 0},
    "d is short": lambda _: {"d": 2**500 + 1},
    "d is another": lambda k: {"d": k["d"] + 2},
    "d is longer than n": lambda k: {"d": k["d"] + (k["p"] - 1) * (k["q"] - 1) * 2},
    "d is huge": lambda _: {"d": 2**9_000 + 1},
    "e is 1": lambda _: {"e": 1},
    "e is 3": lambda _: {"e": 3},
    "e is even": lambda _: {"e": 65_538},
    "e is another": lambda _: {"e": 65_539},
    "e is huge": lambda _: {"e": 2**4_000 + 1},
    "n is even": lambda k: {"n": k["n"] + 1},
    "n is another": lambda k: {"n": k["n"] + 2},
    "n is huge": lambda _: {"n": 2**16_000 + 1},
    "n is a square": lambda k: {"n": (k["p"] * k["p"])},
}
CRT: Mapping[str, Callable[[dict[str, int]], dict[str, int]]] = {
    "p is 1": lambda k: {"p": 1, "q": k["n"]},
    "p is n": lambda k: {"p": k["n"], "q": 1},
    "p is another": lambda k: {"p": k["p"] + 2},
    "p is 0": lambda _: {"p": 0},
    "p and q exchanged": lambda k: {"p": k["q"], "q": k["p"]},
    "dp is another": lambda k: {"dp": k["dp"] + 2},
    "dq is 1": lambda _: {"dq": 1},
    "dp is d": lambda k: {"dp": k["d"]},
    "qi is another": lambda k: {"qi": k["qi"] + 1},
    "qi is 0": lambda _: {"qi": 0},
}


@table("wrong", [*WRONG, *CRT])
def test_an_rsa_key_whose_numbers_do_not_fit_is_refused(key: rsa.RSAPrivateKey, wrong: str) -> None:
    sound = numbers_of(key)
    numbers = {**sound, **{**WRONG, **CRT}[wrong](sound)}
    assert fields(rsa_jwk(numbers)) == ["private_key"]
    if wrong in WRONG:
        assert fields(rsa_jwk({name: numbers[name] for name in ("n", "e", "d")})) == ["private_key"]


@table("missing", ["p", "q", "dp", "dq", "qi"])
def test_of_the_optional_numbers_all_or_none_are_there(jwk: Jwk, missing: str) -> None:
    # RFC 7518 section 6.3.2.
    assert fields(but(jwk, missing)) == ["private_key"]
    assert fields(but(jwk, oth=[{"r": "AQAB", "d": "AQAB", "t": "AQAB"}])) == ["private_key"]


def test_a_modulus_of_three_primes_or_of_one_is_refused() -> None:
    primes = [rsa.generate_private_key(65537, 2048).private_numbers().p for _ in range(2)]
    moduli = [primes[0], primes[0] * primes[1] * 65_537, primes[0] ** 3]
    for n in moduli:
        # What is relatively prime to both: the exponents themselves may well fit.
        order = math.lcm(*(p - 1 for p in primes), 65_536) * primes[0] ** 2
        d = pow(65_539, -1, order) if math.gcd(65_539, order) == 1 else 65_539
        assert fields(rsa_jwk({"n": n, "e": 65_539, "d": d % n})) == ["private_key"]


@table("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_the_same_bounds_hold_for_pem(form: PrivateFormat) -> None:
    for bits, taken in ((1536, False), (2048, True)):
        private_key = rsa.generate_private_key(65537, bits)
        text = private_key.private_bytes(Encoding.PEM, form, NoEncryption()).decode()
        if taken:
            assert imported_keys.read(text, None)[1] == "RS256"
        else:
            with pytest.raises(Invalid):
                imported_keys.read(text, None)
    weak = rsa.generate_private_key(3, 2048).private_bytes(Encoding.PEM, form, NoEncryption())
    with pytest.raises(Invalid):
        imported_keys.read(weak.decode(), None)


def test_an_elliptic_key_that_can_be_guessed_is_refused() -> None:
    for secret in (1, 2, 2**64):
        weak = ec.derive_private_key(secret, ec.SECP256R1())
        text = weak.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        with pytest.raises(Invalid):
            imported_keys.read(text, None)


# --- The endpoint ---------------------------------------------------------------------------------


def test_the_endpoint_keeps_the_algorithm_of_the_jwk(admin: Client, jwk: Jwk) -> None:
    weak = {"private_key": json.dumps(but(jwk, d="AQ"))}
    assert_refused(admin.post("/signing-keys/import", json=weak), "invalid", 422)
    text = json.dumps(but(jwk, alg="PS256"))
    response = admin.post("/signing-keys/import", json={"private_key": text})
    created = ok(response, 201)
    assert created["algorithm"] == "PS256"
    assert admin.delete(f"/signing-keys/{created['kid']}").status_code in (200, 204)
