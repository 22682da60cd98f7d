"""Trusted issuers, whose tokens log workloads in."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Unpack

from keyosk.audit import changed_fields
from keyosk.errors import Conflict, InUse, Invalid, NotFound
from keyosk.ids import is_id, new_id, new_version
from keyosk.model import (
    AUDIENCE,
    FOREIGN_ALGORITHMS,
    NAME,
    Caller,
    IssuerChanges,
    IssuerFields,
    ListQuery,
    TrustedIssuer,
    Versions,
)
from keyosk.permissions.context import Context
from keyosk.storage.stores import Stores
from keyosk.validation import LONGEST_TEXT, Faults, check_version
from keyosk.workloads import assertions, claims, documents
from keyosk.workloads.presets import PRESETS

#: The lock for transactions that read an issuer or a rule and write it back: one at a time.
LOCK: Final = "issuers"
_LONGEST_ISSUER: Final = 512
_MOST_CLAIMS: Final = 20
_LONGEST_CLAIM: Final = 200
#: The largest ``max_lifetime`` in seconds.
_LONGEST_LIFE: Final = 7 * 86_400
RESET: Final[Mapping[str, Any]] = {
    "description": "",
    "jwks_uri": None,
    "keys": None,
    "algorithms": ("RS256", "ES256"),
    "max_lifetime": 3_600,
    "required_claims": (),
    "prefix_claims": (),
    "allow_private": False,
    "enabled": True,
}
_FIELDS: Final = ("name", "issuer", "audience", "preset", *RESET)
#: The fields that decide which tokens are accepted; a change revokes the tokens from before.
_PROOF: Final = ("issuer", "audience", "jwks_uri", "keys", "algorithms", "required_claims")


class TrustedIssuers:
    """What an admin does with issuers. Every write is one transaction."""

    def __init__(self, context: Context, stores: Stores, *, issuer: str) -> None:
        """``issuer``: Keyosk's own, which is the default audience."""
        self._database = context.database
        self._safeguards = context.safeguards
        self._revocations = context.revocations
        self._audit = context.audit
        self._clock = context.clock
        self._issuers = stores.issuers
        self._workload_rules = stores.workload_rules
        self._own = issuer

    def create(
        self,
        caller: Caller,
        *,
        name: str,
        preset: str | None = None,
        **values: Unpack[IssuerFields],
    ) -> TrustedIssuer:
        """Trust an issuer.

        ``preset``: fills in missing ``values``.

        Raises ``Invalid``, ``Conflict``, ``RefusedByRule``.
        """
        if preset is not None and preset not in PRESETS:
            raise Invalid.field("preset", "must be one of " + ", ".join(PRESETS))
        preset_fields: Mapping[str, Any] = {} if preset is None else PRESETS[preset].fields
        now, issuer_id = int(self._clock()), new_id()
        fields: dict[str, Any] = {
            "issuer": "",
            "audience": self._own,
            **RESET,
            **preset_fields,
            **values,
        }
        issuer = TrustedIssuer(
            id=issuer_id,
            name=name,
            preset=preset,
            **fields,
            created_at=now,
            updated_at=now,
            version=new_version(),
        )
        with self._database.transaction():
            self._database.lock(LOCK)
            self._check(issuer)
            self._safeguards.not_by_api_key(caller)
            self._issuers.add(issuer)
            self._audit.record(caller, "issuer.create", _target(issuer), after=fields_of(issuer))
        return issuer

    def get(self, reference: str) -> TrustedIssuer:
        """Return the issuer with this name or id. Raises ``NotFound``."""
        if is_id(reference):
            return self._issuers.by_id(reference.lower())
        if not NAME.fullmatch(reference):
            raise NotFound("There is no such issuer.")
        return self._issuers.by_name(reference)

    def page(self, list_query: ListQuery) -> list[TrustedIssuer]:
        """Return a page of issuers."""
        return self._issuers.page(list_query)

    def count(self, list_query: ListQuery) -> int:
        """Return the number of issuers that pass the filters of a list."""
        return self._issuers.count(list_query)

    def change(
        self,
        caller: Caller,
        reference: str,
        patch: IssuerChanges,
        *,
        version: Versions | None = None,
    ) -> TrustedIssuer:
        """Apply a merge patch (RFC 7396).

        A change of how tokens are verified revokes the tokens of logins by the issuer's rules.
        Raises ``Invalid``, ``NotFound``, ``Conflict``, ``Stale``, ``RefusedByRule``.
        """
        now = int(self._clock())
        with self._database.transaction():
            self._database.lock(LOCK)
            issuer = self.get(reference)
            for name in ("name", "issuer", "audience"):
                if patch.get(name, "") is None:
                    raise Invalid.field(name, "cannot be removed")
            changes = {
                name: RESET.get(name) if value is None else value for name, value in patch.items()
            }
            after = replace(issuer, **changes)  # type: ignore[arg-type]
            self._check(after)
            self._safeguards.not_by_api_key(caller)
            if after == issuer:
                return check_version(issuer, version)
            self._check_hand_out(caller, issuer)
            effective_at = None
            differs = any(getattr(issuer, name) != getattr(after, name) for name in _PROOF)
            if differs or issuer.enabled > after.enabled:
                effective_at = self._revoke(issuer)
            self._check_rules(after)
            if differs:
                self._issuers.forget_keys(issuer.id)
            number = self._issuers.change(after, now=now, version=version)
            old, new = changed_fields(fields_of(issuer), fields_of(after))
            self._audit.record(caller, "issuer.change", _target(issuer), before=old, after=new)
            return replace(after, updated_at=now, version=number, effective_at=effective_at)

    def remove(
        self,
        caller: Caller,
        reference: str,
        *,
        force: bool = False,
        version: Versions | None = None,
    ) -> int | None:
        """Delete an issuer and its rules.

        Returns when the tokens of logins by its rules have expired, if it has any. Raises
        ``NotFound``, ``Stale``, ``RefusedByRule``, and ``InUse`` without ``force``.
        """
        with self._database.transaction():
            self._database.lock(LOCK)
            issuer = self.get(reference)
            self._safeguards.not_by_api_key(caller)
            rules = self._workload_rules.of_issuer(issuer.id)
            if rules and not force:
                names = [rule.name for rule in rules]
                raise InUse([f"The issuer {issuer.name} (rules {', '.join(names[:10])})"])
            effective_at = self._revoke(issuer)
            self._issuers.remove(issuer.id, version=version)
            self._audit.record(caller, "issuer.delete", _target(issuer), before=fields_of(issuer))
            return effective_at

    def _check_hand_out(self, caller: Caller, issuer: TrustedIssuer) -> None:
        """SECURITY: a change of the issuer can give access to the accounts of all its rules."""
        for account_id in {rule.account_id for rule in self._workload_rules.of_issuer(issuer.id)}:
            self._safeguards.may_change(caller, account_id)

    def _revoke(self, issuer: TrustedIssuer) -> int | None:
        moments = [
            self._revocations.revoke_workload_rule(rule.id, rule.account_id)
            for rule in self._workload_rules.of_issuer(issuer.id)
        ]
        return max(moments, default=None)

    def _check_rules(self, issuer: TrustedIssuer) -> None:
        """Raise ``Conflict`` if an existing rule contradicts the issuer."""
        for rule in self._workload_rules.of_issuer(issuer.id):
            missing = [name for name in issuer.required_claims if name not in rule.claims]
            if missing:
                raise Conflict(
                    "required_claims", f"The rule {rule.name} does not name {missing[0]}."
                )
            for name, values in rule.claims.items():
                if claims.has_star(values) and name not in issuer.prefix_claims:
                    raise Conflict("prefix_claims", f"The rule {rule.name} has a * in {name}.")

    def _check(self, issuer: TrustedIssuer) -> None:
        faults = Faults()
        faults.name(issuer.name)
        faults.text("description", issuer.description, longest=LONGEST_TEXT)
        self._check_identity(faults, issuer)
        if not AUDIENCE.fullmatch(issuer.audience):
            faults.add("audience", "must be 1 to 255 printable ASCII characters without space")
        if issuer.jwks_uri is not None:
            _check_url(faults, "jwks_uri", issuer.jwks_uri)
            if issuer.keys is not None:
                faults.add("keys", "must not be given together with jwks_uri")
        if issuer.keys is not None:
            _check_keys(faults, issuer.keys)
        if not issuer.algorithms:
            faults.add("algorithms", "must be some of " + ", ".join(FOREIGN_ALGORITHMS))
        for algorithm in issuer.algorithms:
            if algorithm not in FOREIGN_ALGORITHMS:
                message = "must be one of " + ", ".join(FOREIGN_ALGORITHMS)
                faults.add("algorithms", message, item=algorithm)
        faults.between("max_lifetime", issuer.max_lifetime, 1, highest=_LONGEST_LIFE)
        for name in ("required_claims", "prefix_claims"):
            check_claim_names(faults, name, getattr(issuer, name))
        faults.raise_if_any()
        same = [other for other in self._issuers.by_claim(issuer.issuer) if other.id != issuer.id]
        if any(other.audience == issuer.audience for other in same):
            raise Conflict("issuer", "Another issuer already has this iss and audience.")

    def _check_identity(self, faults: Faults, issuer: TrustedIssuer) -> None:
        text = issuer.issuer
        if not text:
            faults.add("issuer", "is missing: it is the iss of the tokens, exactly")
        elif len(text) > _LONGEST_ISSUER or not text.isprintable():
            faults.add("issuer", f"must have at most {_LONGEST_ISSUER} printable characters")
        elif text == self._own:
            faults.add("issuer", "must not be Keyosk itself")
        elif issuer.keys is None and issuer.jwks_uri is None:
            _check_url(faults, "issuer", text)


def check_claim_names(faults: Faults, field: str, names: tuple[str, ...]) -> None:
    """Check names of claims."""
    if len(names) > _MOST_CLAIMS:
        faults.add(field, f"must name at most {_MOST_CLAIMS} claims")
    for name in names:
        try:
            claims.path(name)
        except ValueError as error:
            faults.add(field, f"is not the name of a claim: {error}", item=name)
        if len(name) > _LONGEST_CLAIM or not name.isprintable():
            message = f"must have at most {_LONGEST_CLAIM} printable characters"
            faults.add(field, message, item=name)


def _check_keys(faults: Faults, document: Mapping[str, Any]) -> None:
    faults.json_object("keys", document)
    listed = document.get("keys")
    if isinstance(listed, list) and any(
        isinstance(key, dict) and assertions.is_private(key) for key in listed
    ):
        faults.add("keys", "must hold public keys only; treat this key as leaked")
        return
    try:
        assertions.parse_keys(document)
    except ValueError as error:
        faults.add("keys", f"must be a JWK set of public keys: {error}")


def _check_url(faults: Faults, field: str, url: str) -> None:
    try:
        documents.check_url(url)
    except ValueError as error:
        faults.add(field, str(error))


def _target(issuer: TrustedIssuer) -> str:
    return f"issuer/{issuer.name}"


def fields_of(issuer: TrustedIssuer) -> dict[str, Any]:
    """Return the fields that may be changed, as plain values."""
    return {name: getattr(issuer, name) for name in _FIELDS}
