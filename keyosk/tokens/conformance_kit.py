"""A kit for testing services: a test key set, one good token, and many that must be refused.

Most are bad in themselves. The others are good tokens whose scopes only look like the required one;
an endpoint that requires a scope must refuse them too.

The keys are generated for the kit and belong to no installation: the service under test is
configured to trust the kit's key set. The bad tokens try the attacks that RFC 8725 (JWT best
practice) describes.
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from keyosk.ids import new_id
from keyosk.keys import jws, material
from keyosk.keys.material import PrivateKey
from keyosk.model import ACCESS_TOKEN_TYPE, Service

_HOUR: Final = 3_600
_LIFETIME: Final = 600

Header = Mapping[str, Any]
Claims = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """A token of the kit; ``good``: a service should accept it.

    ``polled``: only services that poll revocations can know that it is bad.
    """

    name: str
    text: str
    flaw: str
    good: bool = False
    polled: bool = False


@dataclass(frozen=True, slots=True)
class Kit:
    """The key set, revocations and tokens of one kit."""

    issuer: str
    key_set: Mapping[str, Any]
    #: What an attacker has at the address that a token of theirs names in ``jku``.
    foreign_key_set: Mapping[str, Any]
    revocations: Mapping[str, Any]
    samples: tuple[Sample, ...]
    #: Good tokens without the required scope; none if the service has no scopes.
    scope_samples: tuple[Sample, ...]


def make(
    service: Service,
    issuer: str,
    now: int,
    *,
    algorithm: str,
    jku: str,
    scope: str | None = None,
) -> Kit:
    """Create a kit for a service.

    Args:
        service: The service under test.
        issuer: The issuer that the service expects.
        now: The time of issue.
        algorithm: The algorithm that signs the tokens, except where a sample uses another.
        jku: The URL of the foreign key set.
        scope: The scope that the endpoint requires; by default any of the service.
    """
    algorithm = service.policy.signing_algorithm or algorithm
    ours, foreign = material.generate(algorithm), material.generate(algorithm)
    public = material.public_jwk(ours, algorithm)
    revoked = new_id()
    stranger = material.public_jwk(foreign, algorithm)
    header: Header = {
        "alg": algorithm,
        "kid": public["kid"],
        "typ": service.policy.typ or ACCESS_TOKEN_TYPE,
    }
    claims: Claims = {
        "iss": issuer,
        "sub": new_id(),
        "aud": service.policy.audience,
        "client_id": "verify-service",
        "preferred_username": "verify-service",
        "scope": " ".join(each.name for each in service.scopes),
        "iat": now,
        "exp": now + _LIFETIME,
        "auth_time": now,
        "amr": ["api_key"],
        "jti": new_id(),
    }
    sign = _signer(algorithm, ours)
    samples = _samples(header, claims, ours=ours, foreign=foreign, revoked=revoked, jku=jku)
    entry = {"jti": revoked, "expires": now + _LIFETIME}
    return Kit(
        issuer=issuer,
        key_set={"keys": [public]},
        foreign_key_set={"keys": [stranger]},
        revocations={"sequence": 1, "since": 0, "entries": [entry]},
        samples=tuple(samples),
        scope_samples=tuple(
            Sample(name, _jws(header, {**claims, "scope": text}, sign), flaw)
            for name, text, flaw in _near_misses([each.name for each in service.scopes], scope)
        ),
    )


def _near_misses(scopes: Sequence[str], required: str | None) -> Iterator[tuple[str, str, str]]:
    """Return scopes that a careless comparison takes for the required ones, with names."""
    wanted = [required] if required else scopes
    others = [scope for scope in scopes if scope != required] if required else []
    candidates = {
        "scope-longer": ([f"{each}er" for each in wanted], "its scopes begin like the right ones"),
        "scope-shorter": ([each[:-1] for each in wanted], "the right scopes begin like its own"),
        "scope-with-prefix": (
            [f"x{each}" for each in wanted],
            "its scopes end like the right ones",
        ),
        "scope-case": ([each.swapcase() for each in wanted], "its scopes have another case"),
        "scope-elsewhere": (
            [f"somebody-else:{each.rpartition(':')[2]}" for each in wanted],
            "its scopes are those of another service",
        ),
        "scope-others": (others, "it has every scope of the service but the required one"),
    }
    if wanted:
        yield "scope-empty", "", "it has no scope"
    for name, (texts, flaw) in candidates.items():
        near = [text for text in texts if text and text not in wanted]
        if near and (name == "scope-others" or not set(near) & set(scopes)):
            yield name, " ".join(near), flaw


def _signer(algorithm: str, key: PrivateKey) -> Callable[[bytes], bytes]:
    return lambda content: jws.ALGORITHMS[algorithm].sign(content, key)


def _samples(
    header: Header,
    claims: Claims,
    *,
    ours: PrivateKey,
    foreign: PrivateKey,
    revoked: str,
    jku: str,
) -> list[Sample]:
    algorithm, now, issuer = header["alg"], claims["iat"], claims["iss"]
    public = material.public_jwk(ours, algorithm)
    stranger = material.public_jwk(foreign, algorithm)
    pem = material.public_pem(public).encode()

    def by_secret(secret: bytes) -> Callable[[bytes], bytes]:
        return lambda content: hmac.digest(secret, content, hashlib.sha256)

    def but(base: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
        changed = {**base, **changes}
        return {name: value for name, value in changed.items() if value is not None}

    good = _jws(header, claims, _signer(algorithm, ours))
    head, body, signature = good.split(".")
    other = _part(but(claims, sub=new_id(), scope="everything"))
    turned = ("A" if signature[0] != "A" else "B") + signature[1:]
    elsewhere = f"{issuer}/of/somebody/else"

    def signed(name: str, flaw: str, *, head: Header = header, body: Claims = claims) -> Sample:
        return Sample(name, _jws(head, body, _signer(algorithm, ours)), flaw)

    def forged(name: str, flaw: str, **more: Any) -> Sample:
        return Sample(name, _jws(but(header, **more), claims, _signer(algorithm, foreign)), flaw)

    def hashed(name: str, flaw: str, secret: bytes) -> Sample:
        return Sample(name, _jws(but(header, alg="HS256"), claims, by_secret(secret)), flaw)

    def unsigned(name: str, word: str) -> Sample:
        text = _jws(but(header, alg=word), claims, lambda _: b"")
        return Sample(name, text, f"alg is {word}, and there is no signature")

    return [
        Sample("good", good, "none: it is as Keyosk makes it", good=True),
        signed("expired", "it expired an hour ago", body=but(claims, iat=now - 2 * _HOUR,
               exp=now - _HOUR)),
        signed("not-yet", "nbf and iat are an hour ahead", body=but(claims, nbf=now + _HOUR,
               iat=now + _HOUR, exp=now + 2 * _HOUR)),
        signed("no-exp", "it never expires", body=but(claims, exp=None)),
        signed("exp-text", "exp is not a number", body=but(claims, exp="tomorrow")),
        signed("wrong-aud", "it is for another service", body=but(claims, aud="somebody-else")),
        signed("no-aud", "it is for nobody", body=but(claims, aud=None)),
        signed("wrong-iss", "somebody else issued it", body=but(claims, iss=elsewhere)),
        signed("no-iss", "nobody issued it", body=but(claims, iss=None)),
        signed("wrong-typ", "it is a list of revocations",
               head=but(header, typ="revocations+jwt")),
        signed("crit", "it needs an extension that nobody knows",
               head=but(header, crit=["unheard-of"], **{"unheard-of": True})),
        unsigned("none", "none"),
        unsigned("none-in-capitals", "nOnE"),
        Sample("no-signature", f"{head}.{body}.", "its signature was cut off"),
        Sample("tampered-claims", f"{head}.{other}.{signature}", "its claims were changed"),
        Sample("tampered-signature", f"{head}.{body}.{turned}", "its signature was changed"),
        hashed("hs256-pem", "HMAC with the public key's PEM as the secret", pem),
        hashed("hs256-jwk", "HMAC with the public key's JWK as the secret",
               json.dumps(public).encode()),
        hashed("hs256-empty", "HMAC with an empty secret", b""),
        forged("foreign-key", "another key signed it under the known kid"),
        forged("unknown-kid", "its kid is in no key set", kid=stranger["kid"]),
        forged("no-kid", "another key signed it, and it names none", kid=None),
        forged("embedded-jwk", "it brings its own key", jwk=stranger),
        forged("embedded-jwk-kid", "it brings its own key, under its own kid", jwk=stranger,
               kid=stranger["kid"]),
        forged("jku", "it tells where its key is", jku=jku, kid=stranger["kid"]),
        forged("x5u", "it tells where its certificate is", x5u=f"{elsewhere}/x5u"),
        forged("kid-path", "its kid is a path", kid="../../../../dev/null"),
        Sample("revoked", _jws(header, but(claims, jti=revoked), _signer(algorithm, ours)),
               "it was revoked", polled=True),
    ]  # fmt: skip


def _jws(header: Header, claims: Claims, sign: Callable[[bytes], bytes]) -> str:
    content = f"{_part(header)}.{_part(claims)}"
    return f"{content}.{material.base64url(sign(content.encode()))}"


def _part(value: Mapping[str, Any]) -> str:
    return material.base64url(json.dumps(value, separators=(",", ":")).encode())
