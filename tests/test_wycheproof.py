"""Wycheproof's JWS and JWK vectors against what tokens are verified with, here and in services."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from jwt.utils import base64url_decode

from keyosk.keys import jws, material, strict_jws
from keyosk.keys.key_set import Verifier
from keyosk.model import COMMON_ALGORITHMS
from keyosk_client import key_set, token_rules
from tables import table

pytestmark = pytest.mark.attack

FOLDER = Path(__file__).parent / "vectors"
FILES = ("json_web_signature", "json_web_key")
LONGEST = 10_000


def vectors(file: str) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Each vector with the keys of its group: a public key or set, else a secret one."""
    whole = json.loads((FOLDER / f"wycheproof_{file}_test.json").read_text())
    for group in whole["testGroups"]:
        for each in group["tests"]:
            yield group.get("public", group["private"]), each


def is_accepted(text: str, known: Mapping[str, Any]) -> bool:
    """As ``Tokens`` does it, but for what it asks of header and claims beyond RFC 7515."""
    try:
        first, _, signature = strict_jws.parts(text, longest=LONGEST)
        header = json.loads(first)
        keys = known.get("keys", [known])
        named = [key for key in keys if key.get("kid") == header.get("kid")]
        (jwk,) = named if "kid" in header else keys
        public: Any = material.public_key(jwk)  # PyJWT lists no ML-DSA keys
        if jwk["alg"] not in COMMON_ALGORITHMS or header["alg"] != jwk["alg"]:
            return False
        return jws.is_signed(text, signature, Verifier(jwk["alg"], public))
    except (ValueError, KeyError, TypeError):
        return False


def is_accepted_by_client(text: str, known: Mapping[str, Any]) -> bool:
    """As keyosk-client does it, except for what it asks of header and claims beyond RFC 7515."""
    parts = token_rules._COMPACT.fullmatch(text)
    if parts is None:
        return False
    try:
        # The vectors have keys without a name, which no token of Keyosk can mean.
        named = [{"kid": "none", **key} for key in known.get("keys", [known])]
        keys = key_set.read({"keys": named})
        key = keys[json.loads(base64url_decode(parts[1])).get("kid", "none")]
        jwt.PyJWS().decode(text, key, algorithms=[key.algorithm_name])
    except (ValueError, LookupError, TypeError, AttributeError, jwt.PyJWTError):
        return False
    return True


def is_ours(known: Mapping[str, Any]) -> bool:
    return all(key.get("alg") in COMMON_ALGORITHMS for key in known.get("keys", [known]))


#: Why what is valid elsewhere is refused here.
REFUSED = {
    ("json_web_signature", 346): "the key is for PS256, the signature is PS384",
    ("json_web_signature", 350): "the same",
}


#: Why a service accepts what Keyosk would not.
TRUSTED = {
    (
        "json_web_key",
        7,
    ): "whether a key has the ROCA weakness is for Keyosk to find, which makes it",
}


@table("by", [is_accepted, is_accepted_by_client])
@table("file", FILES)
def test_the_vectors(file: str, by: Callable[[str, Mapping[str, Any]], bool]) -> None:
    wrong = {}
    asked = 0
    for known, each in vectors(file):
        name = (file, each["tcId"])
        accepted = by(each["jws"], known)
        # Keyosk has no secrets in common with anybody, and no SHA-384 or SHA-512.
        if not is_ours(known):
            assert not accepted, (name, each)
            continue
        asked += 1
        right = {"valid": True, "invalid": False}.get(each["result"], accepted)
        if name in REFUSED:
            right = False
        if by is is_accepted_by_client:
            # No token is empty.
            right = (right or name in TRUSTED) and ".." not in each["jws"]
        if accepted != right:
            wrong[name] = (each["comment"], each["result"], each["jws"][:60], str(known)[:150])
    assert wrong == {}
    assert asked > {"json_web_signature": 300, "json_web_key": 5}[file]
