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
    #: The attacker's key set, which is published at the ``jku`` of a sample.
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
    claims = _good_claims(service, issuer, now)
    forge = _Forge(header=header, claims=claims, ours=ours, foreign=foreign)
    good = forge.signed()
    samples = (
        Sample("good", good, "none: it is as Keyosk makes it", good=True),
        *_bad_claims(forge),
        *_bad_signatures(forge, good),
        *_foreign_keys(forge, jku),
        Sample("revoked", forge.signed(jti=revoked), "it was revoked", polled=True),
    )
    entry = {"jti": revoked, "expires": now + _LIFETIME}
    return Kit(
        issuer=issuer,
        key_set={"keys": [public]},
        foreign_key_set={"keys": [stranger]},
        revocations={"sequence": 1, "since": 0, "entries": [entry]},
        samples=samples,
        scope_samples=tuple(
            Sample(name, forge.signed(scope=text), flaw)
            for name, text, flaw in _near_misses([each.name for each in service.scopes], scope)
        ),
    )


def _good_claims(service: Service, issuer: str, now: int) -> Claims:
    return {
        "iss": issuer,
        "sub": new_id(),
        "aud": service.policy.audience,
        "client_id": "verify-service",
        "preferred_username": "verify-service",
        "scope": " ".join(scope.name for scope in service.scopes),
        "iat": now,
        "exp": now + _LIFETIME,
        "auth_time": now,
        "amr": ["api_key"],
        "jti": new_id(),
    }


def _near_misses(scopes: Sequence[str], required: str | None) -> Iterator[tuple[str, str, str]]:
    """Return scopes that a careless comparison takes for the required ones, with names."""
    right = [required] if required else scopes
    others = [scope for scope in scopes if scope != required] if required else []
    candidates = {
        "scope-longer": ([f"{each}er" for each in right], "its scopes begin like the right ones"),
        "scope-shorter": ([each[:-1] for each in right], "the right scopes begin like its own"),
        "scope-with-prefix": (
            [f"x{each}" for each in right],
            "its scopes end like the right ones",
        ),
        "scope-case": ([each.swapcase() for each in right], "its scopes have another case"),
        "scope-elsewhere": (
            [f"somebody-else:{each.rpartition(':')[2]}" for each in right],
            "its scopes are those of another service",
        ),
        "scope-others": (others, "it has every scope of the service but the required one"),
    }
    if right:
        yield "scope-empty", "", "it has no scope"
    for name, (texts, flaw) in candidates.items():
        near = [text for text in texts if text and text not in right]
        if near and (name == "scope-others" or not set(near) & set(scopes)):
            yield name, " ".join(near), flaw


def _signer(algorithm: str, key: PrivateKey) -> Callable[[bytes], bytes]:
    return lambda content: jws.ALGORITHMS[algorithm].sign(content, key)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Forge:
    """Makes samples from the header and claims of the good token.

    ``ours`` is the key of the key set that the service trusts; ``foreign`` is the attacker's.
    """

    header: Header
    claims: Claims
    ours: PrivateKey
    foreign: PrivateKey

    @property
    def algorithm(self) -> str:
        return str(self.header["alg"])

    def signed(self, header: Header | None = None, **claims: Any) -> str:
        """Return a token with a good signature and other claims; ``None`` removes one."""
        signer = _signer(self.algorithm, self.ours)
        return _jws(self.header if header is None else header, _with(self.claims, claims), signer)

    def forged(self, **header: Any) -> str:
        """Return a token that the foreign key signed, with another header."""
        signer = _signer(self.algorithm, self.foreign)
        return _jws(_with(self.header, header), self.claims, signer)

    def hashed(self, secret: bytes) -> str:
        """Return a token with an HMAC in the place of a signature."""
        header = _with(self.header, {"alg": "HS256"})
        return _jws(header, self.claims, lambda text: hmac.digest(secret, text, hashlib.sha256))

    def unsigned(self, word: str) -> str:
        """Return a token without a signature, whose ``alg`` is this word."""
        return _jws(_with(self.header, {"alg": word}), self.claims, lambda _: b"")


def _bad_claims(forge: _Forge) -> Iterator[Sample]:
    """Yield tokens with a good signature that no service may accept."""
    now = forge.claims["iat"]
    past = {"iat": now - 2 * _HOUR, "exp": now - _HOUR}
    ahead = {"nbf": now + _HOUR, "iat": now + _HOUR, "exp": now + 2 * _HOUR}
    elsewhere = f"{forge.claims['iss']}/of/somebody/else"
    yield Sample("expired", forge.signed(**past), "it expired an hour ago")
    yield Sample("not-yet", forge.signed(**ahead), "nbf and iat are an hour ahead")
    yield Sample("no-exp", forge.signed(exp=None), "it never expires")
    yield Sample("exp-text", forge.signed(exp="tomorrow"), "exp is not a number")
    yield Sample("wrong-aud", forge.signed(aud="somebody-else"), "it is for another service")
    yield Sample("no-aud", forge.signed(aud=None), "it is for nobody")
    yield Sample("wrong-iss", forge.signed(iss=elsewhere), "somebody else issued it")
    yield Sample("no-iss", forge.signed(iss=None), "nobody issued it")
    header = _with(forge.header, {"typ": "revocations+jwt"})
    yield Sample("wrong-typ", forge.signed(header), "it is a list of revocations")
    header = _with(forge.header, {"crit": ["unheard-of"], "unheard-of": True})
    yield Sample("crit", forge.signed(header), "it needs an extension that nobody knows")


def _bad_signatures(forge: _Forge, good: str) -> Iterator[Sample]:
    """Yield tokens whose signature is missing, belongs to another token, or is an HMAC."""
    for name, word in (("none", "none"), ("none-in-capitals", "nOnE")):
        flaw = f"alg is {word}, and there is no signature"
        yield Sample(name, forge.unsigned(word), flaw)
    head, body, signature = good.split(".")
    other = _part(_with(forge.claims, {"sub": new_id(), "scope": "everything"}))
    turned = ("A" if signature[0] != "A" else "B") + signature[1:]
    yield Sample("no-signature", f"{head}.{body}.", "its signature was cut off")
    yield Sample("tampered-claims", f"{head}.{other}.{signature}", "its claims were changed")
    yield Sample("tampered-signature", f"{head}.{body}.{turned}", "its signature was changed")
    public = material.public_jwk(forge.ours, forge.algorithm)
    secrets = {
        "hs256-pem": ("HMAC with the public key's PEM as the secret", material.public_pem(public)),
        "hs256-jwk": ("HMAC with the public key's JWK as the secret", json.dumps(public)),
        "hs256-empty": ("HMAC with an empty secret", ""),
    }
    for name, (flaw, secret) in secrets.items():
        yield Sample(name, forge.hashed(secret.encode()), flaw)


def _foreign_keys(forge: _Forge, jku: str) -> Iterator[Sample]:
    """Yield tokens that another key signed. ``jku``: the URL of the foreign key set."""
    stranger = material.public_jwk(forge.foreign, forge.algorithm)
    kid = stranger["kid"]
    x5u = f"{forge.claims['iss']}/of/somebody/else/x5u"
    yield Sample("foreign-key", forge.forged(), "another key signed it under the known kid")
    yield Sample("unknown-kid", forge.forged(kid=kid), "its kid is in no key set")
    yield Sample("no-kid", forge.forged(kid=None), "another key signed it, and it names none")
    yield Sample("embedded-jwk", forge.forged(jwk=stranger), "it brings its own key")
    flaw = "it brings its own key, under its own kid"
    yield Sample("embedded-jwk-kid", forge.forged(jwk=stranger, kid=kid), flaw)
    yield Sample("jku", forge.forged(jku=jku, kid=kid), "it tells where its key is")
    yield Sample("x5u", forge.forged(x5u=x5u), "it tells where its certificate is")
    yield Sample("kid-path", forge.forged(kid="../../../../dev/null"), "its kid is a path")


def _with(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return members with changes; ``None`` removes a member."""
    return {name: value for name, value in {**base, **changes}.items() if value is not None}


def _jws(header: Header, claims: Claims, sign: Callable[[bytes], bytes]) -> str:
    content = f"{_part(header)}.{_part(claims)}"
    return f"{content}.{material.base64url(sign(content.encode()))}"


def _part(value: Mapping[str, Any]) -> str:
    return material.base64url(json.dumps(value, separators=(",", ":")).encode())
