"""Presets for common verifiers: the tokens that they accept, and their configuration.

``docs/reference/verifiers.md`` has the same table, and a test compares the two.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class VerifierPreset:
    """What one verifier needs.

    Attributes:
        typ: The token type of its service; ``None`` for the default, as in the next two.
        signing_algorithm: The algorithm of its service.
        registry_version: The version of the container registry.
        lines: Lines for the verifier's own configuration. ``{issuer}``, ``{audience}`` and
            ``{service}`` are filled in.
    """

    title: str
    typ: str | None = None
    signing_algorithm: str | None = None
    registry_version: int | None = None
    lines: tuple[str, ...] = ()

    @property
    def fields(self) -> dict[str, Any]:
        """Return the fields that the service needs for it."""
        fields = {
            "typ": self.typ,
            "signing_algorithm": self.signing_algorithm,
            "registry_version": self.registry_version,
        }
        return {name: value for name, value in fields.items() if value is not None}

    def lines_for(self, *, issuer: str, service: str, audience: str) -> list[str]:
        """Return the lines for the verifier's configuration."""
        values = {"{issuer}": issuer, "{service}": service, "{audience}": audience}
        filled = list(self.lines)
        for name, value in values.items():
            filled = [line.replace(name, value) for line in filled]
        return filled


_REGISTRY: Final = (
    "realm: {issuer}/auth/token",
    "service: {audience}",
    "issuer: {issuer}",
)
_JWKS: Final = "{issuer}/services/{service}/jwks"

#: By the value of ``--for``.
PRESETS: Final[Mapping[str, VerifierPreset]] = {
    "spring": VerifierPreset(
        "Spring Security, issuer-uri",
        typ="JWT",
        lines=(
            "spring.security.oauth2.resourceserver.jwt.issuer-uri={issuer}",
            "spring.security.oauth2.resourceserver.jwt.audiences={audience}",
        ),
    ),
    "spring-jwk-set-uri": VerifierPreset(
        "Spring Security, jwk-set-uri alone",
        typ="JWT",
        signing_algorithm="RS256",
        lines=(
            f"spring.security.oauth2.resourceserver.jwt.jwk-set-uri={_JWKS}",
            "spring.security.oauth2.resourceserver.jwt.audiences={audience}",
        ),
    ),
    "hono": VerifierPreset("Hono jwk", typ="JWT", lines=(f"jwks_uri: {_JWKS}",)),
    "libjwt1": VerifierPreset("libjwt 1", typ="JWT"),
    "dovecot": VerifierPreset(
        "Dovecot 2.3",
        typ="JWT",
        lines=(
            "introspection_mode = local",
            "username_attribute = preferred_username",
            "client_id = {audience}",
            "issuers = {issuer}",
        ),
    ),
    "ejabberd": VerifierPreset("ejabberd", lines=("jwt_jid_field: preferred_username",)),
    "hapi": VerifierPreset("@hapi/jwt", signing_algorithm="RS256", lines=(f"uri: {_JWKS}",)),
    "okta-jwt-verifier": VerifierPreset("okta-jwt-verifier", signing_algorithm="RS256"),
    "fastify-jwt-jwks": VerifierPreset(
        "fastify-jwt-jwks", signing_algorithm="RS256", lines=(f"jwksUrl: {_JWKS}",)
    ),
    "apisix": VerifierPreset(
        "APISIX openid-connect",
        signing_algorithm="RS256",
        lines=(
            "discovery: {issuer}/.well-known/openid-configuration",
            "bearer_only: true",
            "use_jwks: true",
        ),
    ),
    "lua-resty-openidc": VerifierPreset(
        "lua-resty-openidc",
        signing_algorithm="RS256",
        lines=(
            'discovery = "{issuer}/.well-known/openid-configuration"',
            'token_signing_alg_values_expected = { "RS256" }',
        ),
    ),
    "simplejwt": VerifierPreset(
        "djangorestframework-simplejwt",
        lines=(
            f'"JWK_URL": "{_JWKS}",',
            '"ALGORITHM": "ES256",',
            '"ISSUER": "{issuer}",',
            '"AUDIENCE": "{audience}",',
            '"TOKEN_TYPE_CLAIM": None,',
            '"USER_ID_CLAIM": "sub",',
        ),
    ),
    "drf-oidc-auth": VerifierPreset(
        "drf-oidc-auth",
        lines=('"OIDC_ENDPOINT": "{issuer}",', '"JWT_ALGORITHMS": ["ES256"],'),
    ),
    "registry-2": VerifierPreset(
        "container registry 2",
        registry_version=2,
        lines=(*_REGISTRY, "rootcertbundle: /etc/docker/registry/keyosk.pem"),
    ),
    "registry-3": VerifierPreset(
        "container registry 3",
        registry_version=3,
        lines=(*_REGISTRY, "jwks: /etc/distribution/keyosk.jwks"),
    ),
}
