"""The rules for the fields of a service."""

import re
from typing import Final
from urllib.parse import urlsplit

from keyosk.errors import Invalid
from keyosk.model import (
    AUDIENCE,
    DOCUMENT_PATHS,
    KEYOSK,
    REGISTRY_CLAIM,
    REGISTRY_VERSIONS,
    SIGNING_ALGORITHMS,
    TOKEN_CLAIMS,
    TOKEN_TYPES,
    Service,
    namespace_key,
)
from keyosk.permissions.entitlements import check_scope_name
from keyosk.validation import LONGEST_NAME, LONGEST_TEXT, Faults

_CLAIM: Final = re.compile(r"[\x21-\x7e]{1,100}")
_SHORTEST_LIFETIME: Final = 30
_LONGEST_LIFETIME: Final = 86_400
_MOST_AUDIENCES: Final = 20
_LONGEST_REFRESH: Final = 365 * 86_400


def check(service: Service, issuer: str) -> None:
    """Check each field of a service. Raises ``Invalid`` with all faults."""
    faults = Faults()
    policy = service.policy
    faults.name(policy.name)
    _check_audience(faults, "audience", policy.audience, issuer=issuer)
    if len(service.audiences) > _MOST_AUDIENCES:
        faults.add("audiences", f"must be {_MOST_AUDIENCES} at most")
    for audience in service.audiences:
        _check_audience(faults, "audiences", audience, issuer=issuer, item=audience)
    faults.text("title", service.title, longest=LONGEST_NAME)
    faults.text("description", service.description, longest=LONGEST_TEXT)
    faults.text("contact", service.contact, longest=LONGEST_NAME)
    faults.between(
        "token_lifetime", policy.token_lifetime, _SHORTEST_LIFETIME, highest=_LONGEST_LIFETIME
    )
    faults.between(
        "refresh_lifetime", policy.refresh_lifetime, _SHORTEST_LIFETIME, highest=_LONGEST_REFRESH
    )
    faults.one_of(
        "signing_algorithm",
        policy.signing_algorithm,
        SIGNING_ALGORITHMS,
    )
    faults.one_of("typ", policy.typ, TOKEN_TYPES)
    if policy.registry_version not in (None, *REGISTRY_VERSIONS):
        faults.add("registry_version", "must be 2 or 3")
    if policy.registry_version is not None and REGISTRY_CLAIM in policy.claims:
        # SECURITY: otherwise a caller who may write accounts could give rights in the registry.
        faults.add("claims", f"{REGISTRY_CLAIM} is reserved for container registries")
    for claim in policy.claims:
        if not _CLAIM.fullmatch(claim) or claim in TOKEN_CLAIMS:
            faults.add("claims", "is not a valid name of a claim", item=claim)
    _check_scopes(faults, service)
    _check_exchanges(faults, service)
    faults.raise_if_any()


def _check_audience(
    faults: Faults, field: str, audience: str, *, issuer: str, item: str | None = None
) -> None:
    issuer_urls = {namespace_key(issuer + path) for path in ("", *DOCUMENT_PATHS)}
    if not AUDIENCE.fullmatch(audience):
        faults.add(field, "must be 1 to 255 printable ASCII characters without space", item=item)
    elif namespace_key(audience) in issuer_urls:
        faults.add(field, "must not be a URL of the issuer", item=item)
    elif "://" in audience and not _is_resource_indicator(audience):
        faults.add(field, "must not have a fragment (RFC 8707 section 2)", item=item)


def _check_scopes(faults: Faults, service: Service) -> None:
    seen = set()
    for scope in service.scopes:
        try:
            check_scope_name(scope.name, field="scopes")
        except Invalid as error:
            faults.extend(error)
        # SECURITY: in any case of letters, because whoever grants them may not see the difference.
        if scope.name.lower().startswith(f"{KEYOSK}:") and service.name != KEYOSK:
            message = f"must not begin with {KEYOSK}:, as Keyosk's own scopes do"
            faults.add("scopes", message, item=scope.name)
        if scope.name in seen:
            faults.add("scopes", "is given twice", item=scope.name)
        seen.add(scope.name)
        item = f"the description of {scope.name}"
        faults.text("scopes", scope.description, longest=LONGEST_TEXT, item=item)


def _check_exchanges(faults: Faults, service: Service) -> None:
    names = [exchange.service for exchange in service.exchanges]
    for exchange in service.exchanges:
        if exchange.service in (service.name, KEYOSK) or names.count(exchange.service) > 1:
            faults.add("exchanges", f"cannot name {exchange.service[:100]}, or names it twice")
        for scope in exchange.scopes:
            try:
                check_scope_name(scope, field="exchanges")
            except Invalid as error:
                faults.extend(error)


def _is_resource_indicator(audience: str) -> bool:
    try:
        return bool(urlsplit(audience).netloc) and "#" not in audience
    except ValueError:
        return False
