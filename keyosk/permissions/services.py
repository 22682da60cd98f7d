"""Services and the scopes they own."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import fields, replace
from typing import Any, Final, Unpack

from keyosk.audit import changed_fields
from keyosk.credentials import usernames
from keyosk.errors import Forbidden, InUse, Invalid, NotFound
from keyosk.ids import is_id, new_id, new_version
from keyosk.keys.rotation import Rotation
from keyosk.model import (
    AUDIENCE,
    INTROSPECT,
    KEYOSK,
    NAME,
    OPERATOR,
    USUAL_CREDENTIALS,
    Caller,
    ListQuery,
    Scope,
    Service,
    ServiceChanges,
    ServiceFields,
    SigningKey,
    TokenPolicy,
    Verification,
    Versions,
)
from keyosk.permissions import entitlements, service_validation
from keyosk.permissions.context import Context
from keyosk.revocations import MOST_ACCOUNTS
from keyosk.storage.stores import Stores
from keyosk.validation import check_version

#: The lock for transactions that read a service and write it back: one at a time.
LOCK: Final = "services"
_POLICY_FIELDS: Final = tuple(each.name for each in fields(TokenPolicy))
_TEXTS: Final = ("title", "description", "contact")
RESET: Final[Mapping[str, Any]] = {
    "title": "",
    "description": "",
    "contact": "",
    "enabled": True,
    "on_request_only": False,
    "cors_preflight": False,
    "accepts": USUAL_CREDENTIALS,
    "refresh_allowed": False,
    "claims": (),
    "scopes": (),
    "exchanges": (),
    "audiences": (),
}
#: The only fields of Keyosk's own service that may be changed.
_OWN_FIELDS: Final = frozenset(
    {
        *("title", "description", "contact", "token_lifetime"),
        *("refresh_allowed", "refresh_lifetime", "accepts"),
    }
)
#: Seconds: an admin who uses commands logs in again after a week without one.
OWN_REFRESH_LIFETIME: Final = 7 * 86_400


class Services:
    """What an admin does with services. Every write is one transaction."""

    def __init__(
        self, context: Context, stores: Stores, rotation: Rotation, *, issuer: str
    ) -> None:
        """``issuer``: reserved as an audience, because it marks tokens for no service."""
        self._database = context.database
        self._safeguards = context.safeguards
        self._revocations = context.revocations
        self._audit = context.audit
        self._clock = context.clock
        self._services = stores.services
        self._grants = stores.grants
        self._verifications = stores.verifications
        self._rotation = rotation
        self._issuer = issuer

    def create(
        self,
        caller: Caller,
        *,
        name: str,
        scopes: Sequence[Scope] = (),
        **values: Unpack[ServiceFields],
    ) -> Service:
        """Make a service; its audience is its name unless given.

        ``values``: any other field of ``TokenPolicy``, and ``title``, ``description``, ``contact``.
        A service with an unusual ``typ`` or ``signing_algorithm``, or a container registry, is
        ``on_request_only`` unless ``values`` say otherwise: other services cannot use its tokens.
        Raises ``Invalid``, ``Conflict``.
        """
        service = self._made({"audience": name, **values, "name": name}, scopes, int(self._clock()))
        if "on_request_only" not in values and not self._is_usual(service):
            service = _patched(service, {"on_request_only": True})
        with self._database.transaction():
            self._database.lock(LOCK)
            service_validation.check(service, self._issuer)
            self._check_rights(caller, None, service)
            if service.policy.signing_algorithm is not None:
                self._rotation.check_algorithm(service.policy.signing_algorithm)
            self._services.add(service)
            if service.policy.token_lifetime is not None:
                self._revocations.note_lifetimes()
            self._audit.record(caller, "service.create", _target(service), after=fields_of(service))
        return service

    def get(self, reference: str) -> Service:
        """Return the service with this id or name. Raises ``NotFound``."""
        if is_id(reference):
            return self._services.by_id(reference.lower())
        return self._services.by_name(reference if NAME.fullmatch(reference) else "")

    def verification(self, reference: str) -> Verification:
        """Return what the last test of a service with bad tokens found. Raises ``NotFound``."""
        verification = self._verifications.of_service(self.get(reference).id)
        if verification is None:
            raise NotFound("No result of verify-service is known of this service.")
        return verification

    def record_verification(
        self,
        caller: Caller,
        reference: str,
        *,
        url: str,
        passed: bool,
        verdict: str,
        failed: Sequence[str],
    ) -> Verification:
        """Keep what a test of a service with bad tokens found. Raises ``NotFound``."""
        verification = Verification(
            verified_at=int(self._clock()),
            verified_by=caller.username,
            url=url,
            passed=passed,
            verdict=verdict,
            failed=tuple(failed),
        )
        with self._database.transaction():
            service = self.get(reference)
            self._verifications.replace(service.id, verification)
            after = {"url": url, "passed": passed, "failed": list(failed)}
            self._audit.record(caller, "service.verify", _target(service), after=after)
        return verification

    def policy_for(self, target: str) -> TokenPolicy | None:
        """Return the policy of the service with this audience, or else with this name."""
        return self._services.policy_for(target) if AUDIENCE.fullmatch(target) else None

    def passes_preflights(self, name: str) -> bool:
        """Return whether CORS preflights to the service with exactly this name need no login."""
        policy = self.policy_for(name)
        return (
            policy is not None and policy.name == name and policy.enabled and policy.cors_preflight
        )

    def existing_scopes(self, names: Iterable[str]) -> set[str]:
        """Return those of the names that are scopes of some service."""
        return self._services.existing_scopes(names)

    def page(self, list_query: ListQuery) -> list[Service]:
        """Return a page of services."""
        return self._services.page(list_query)

    def acting(self, account_id: str) -> list[Service]:
        """Return the services that the account acts for."""
        return self._services.acting(account_id)

    def policies_acted_for(self, account_id: str) -> list[TokenPolicy]:
        """Return the policies of the services that the account acts for."""
        return self._services.policies_acted_for(account_id)

    def count(self, list_query: ListQuery) -> int:
        """Return the number of services that pass the filters of a list."""
        return self._services.count(list_query)

    def change(
        self,
        caller: Caller,
        reference: str,
        patch: ServiceChanges,
        *,
        force: bool = False,
        version: Versions | None = None,
        draft: SigningKey | None = None,
    ) -> Service:
        """Apply a merge patch (RFC 7396).

        A service whose ``typ`` or ``signing_algorithm`` becomes unusual also becomes
        ``on_request_only``, unless the patch says otherwise. ``draft``: the result of
        ``draft_key``, for callers with an open transaction.
        Raises ``Invalid``, ``NotFound``, ``Conflict``, ``Stale``; ``InUse`` for removed
        scopes that accounts hold, unless ``force``; ``Forbidden`` for what Keyosk's own service
        needs.
        """
        now = int(self._clock())
        with ExitStack() as stack:
            draft = draft or stack.enter_context(self.draft_key(patch.get("signing_algorithm")))
            stack.enter_context(self._database.transaction())
            self._database.lock(LOCK)
            service = self.get(reference)
            after = self._with_patch(service, patch)
            self._check_rights(caller, service, after)
            if after == service:
                return check_version(service, version)
            self._refuse_use(_removed_scopes(service, after), force=force)
            effective_at = self._revoke_what_is_lost(service, after)
            number = self._services.change(
                after,
                now=now,
                version=version,
                readdressed=after.identifiers != service.identifiers,
                exchanged=after.exchanges != service.exchanges,
            )
            self._services.set_scopes(service, after.scopes)
            if after.policy.token_lifetime != service.policy.token_lifetime:
                self._revocations.note_lifetimes()
            algorithm = after.policy.signing_algorithm
            if algorithm is not None and algorithm != service.policy.signing_algorithm:
                # The key set that its verifiers have may lack a key of this algorithm.
                self._rotation.publish_for(caller, algorithm, draft=draft)
            old, new = changed_fields(fields_of(service), fields_of(after))
            self._audit.record(caller, "service.change", _target(service), before=old, after=new)
            return replace(after, updated_at=now, version=number, effective_at=effective_at)

    def _with_patch(self, service: Service, patch: ServiceChanges) -> Service:
        """Return the service as the patch leaves it. Raises ``Invalid``, ``Forbidden``."""
        for name in ("name", "audience"):
            if patch.get(name, "") is None:
                raise Invalid.field(name, "cannot be removed")
        if service.name == KEYOSK and patch.keys() - _OWN_FIELDS:
            raise Forbidden("Keyosk's own service and its scopes cannot be changed.")
        after = _patched(
            service,
            {name: RESET.get(name) if value is None else value for name, value in patch.items()},
        )
        if "on_request_only" not in patch and self._is_usual(service) and not self._is_usual(after):
            after = _patched(after, {"on_request_only": True})
        service_validation.check(after, self._issuer)
        if service.name == KEYOSK and not after.policy.accepts >= USUAL_CREDENTIALS:
            # SECURITY: otherwise no admin could log in, or only with a workload's token.
            raise Forbidden("Keyosk's own service accepts passwords and API keys: both, or any.")
        return after

    def _revoke_what_is_lost(self, before: Service, after: Service) -> int | None:
        """Revoke the tokens whose rights a change takes away; returns when all have expired."""
        moments = []
        if (
            _removed_scopes(before, after)
            or before.policy.enabled > after.policy.enabled
            or before.policy.accepts - after.policy.accepts
        ):
            moments.append(self._revoke(before))
        if before.policy.audience != after.policy.audience:
            # SECURITY: another service may take the audience and would then receive these tokens.
            moments.append(self._revocations.revoke_audiences([before.policy.audience]))
            self._revocations.end_sessions_for(before.policy.audience)
        moments += self._revoke_exchanged(before, after)
        return max(moments, default=None)

    def draft_key(self, algorithm: str | None) -> AbstractContextManager[SigningKey | None]:
        """Generate the signing key that a change to this algorithm will publish, if any.

        Making one takes long: this is for before the transaction. Raises ``Unavailable``.
        """
        return self._rotation.draft_for(algorithm)

    def remove(
        self,
        caller: Caller,
        reference: str,
        *,
        force: bool = False,
        version: Versions | None = None,
    ) -> int:
        """Delete a service, its scopes and their grants.

        Returns when all tokens for it have expired. Raises ``NotFound``, ``Stale``, ``Forbidden``,
        and ``InUse`` without ``force``.
        """
        with self._database.transaction():
            self._database.lock(LOCK)
            service = self.get(reference)
            if service.name == KEYOSK:
                raise Forbidden("Keyosk's own service cannot be deleted.")
            self._refuse_use({scope.name for scope in service.scopes}, force=force)
            effective_at = max([self._revoke(service), *self._revoke_exchanged(service, None)])
            self._revocations.end_sessions_for(service.policy.audience)
            self._services.remove(service.id, version=version)
            if service.policy.token_lifetime is not None:
                self._revocations.note_lifetimes()
            self._audit.record(
                caller, "service.delete", _target(service), before=fields_of(service)
            )
            return effective_at

    def ensure_own(self, scopes: Sequence[Scope]) -> None:
        """Make Keyosk's own service, and give it these scopes, where they are missing."""
        own_scopes = tuple(sorted(scopes, key=lambda scope: scope.name))
        with self._database.transaction():
            if self._services.policy_for(KEYOSK) is None:
                service = self._made(
                    {
                        "name": KEYOSK,
                        "audience": KEYOSK,
                        "on_request_only": True,
                        "refresh_allowed": True,
                        "refresh_lifetime": OWN_REFRESH_LIFETIME,
                        "title": "Keyosk",
                        "description": "The admin API of this installation.",
                    },
                    own_scopes,
                    int(self._clock()),
                )
                self._services.add(service)
                self._audit.record(OPERATOR, "service.create", _target(service))
            service = self._services.by_name(KEYOSK)
            if service.scopes != own_scopes:
                self._services.set_scopes(service, own_scopes)

    def _check_rights(self, caller: Caller, before: Service | None, after: Service) -> None:
        """Check the safeguards for the rights that the fields of a service hand out.

        - ``account`` may introspect the tokens of the service, and gets what ``exchanges`` adds.
        - ``accepts`` gives the scopes of the service to further kinds of login.
        - Callers with an API key must not enable a disabled service.

        Raises ``RefusedByRule``.
        """
        acting = None if before is None else (before.account, before.policy.audience)
        additions_before: set[tuple[str, str]] = set()
        if after.account is not None and acting != (after.account, after.policy.audience):
            self._safeguards.may_give(caller, [INTROSPECT])
        elif before is not None:
            additions_before = set(_additions(before))
        # SECURITY: otherwise a caller who may write services could use the scopes of others.
        self._safeguards.may_give(
            caller, [scope for _, scope in set(_additions(after)) - additions_before]
        )
        for username in {after.account} ^ {before.account if before else None}:
            if username is not None:
                self._safeguards.may_change(caller, self._services.account_id(username))
        acts = (None, ()) if before is None else (before.account, before.exchanges)
        if (after.account, after.exchanges) != acts:
            self._safeguards.not_by_api_key(caller)
        if before is None:
            return
        policy = after.policy
        if policy.enabled > before.policy.enabled or policy.accepts - before.policy.accepts:
            self._safeguards.not_by_api_key(caller)
        scopes = [scope.name for scope in before.scopes]
        if policy.accepts - before.policy.accepts and self._grants.holders(scopes, limit=1):
            self._safeguards.may_give(caller, scopes)

    def _made(self, values: Mapping[str, Any], scopes: Sequence[Scope], now: int) -> Service:
        service_id = new_id()
        blank = Service(
            id=service_id,
            policy=TokenPolicy(
                name="",
                audience="",
                enabled=True,
                on_request_only=False,
                accepts=USUAL_CREDENTIALS,
                token_lifetime=None,
                signing_algorithm=None,
                typ=None,
                refresh_allowed=False,
                refresh_lifetime=None,
                claims=(),
            ),
            title="",
            description="",
            contact="",
            scopes=(),
            created_at=now,
            updated_at=now,
            version=new_version(),
        )
        return _patched(blank, {**values, "scopes": scopes})

    def _is_usual(self, service: Service) -> bool:
        return entitlements.is_usual(service.policy, self._rotation.algorithm)

    def _revoke(self, service: Service) -> int:
        scopes = [scope.name for scope in service.scopes]
        return self._revocations.revoke_service(
            service.policy.audience, self._grants.holders(scopes, limit=MOST_ACCOUNTS + 1)
        )

    def _revoke_exchanged(self, before: Service, after: Service | None) -> list[int]:
        """Revoke what a service's account got by exchange, if it would no longer get all of it."""
        if before.account is None or not _exchanged(before) - _exchanged(after):
            return []
        return [self._revocations.revoke_account(self._services.account_id(before.account))]

    def _refuse_use(self, scopes: set[str], *, force: bool) -> None:
        used, accounts, roles = self._grants.use_of_scopes(sorted(scopes))
        if used and not force:
            raise InUse(used, accounts=accounts, roles=roles)


def fields_of(service: Service) -> dict[str, Any]:
    """Return the fields that may be changed, as plain values."""
    policy = service.policy
    return {
        **{name: getattr(policy, name) for name in _POLICY_FIELDS},
        "accepts": sorted(policy.accepts),
        **{name: getattr(service, name) for name in _TEXTS},
        "account": service.account,
        "audiences": service.audiences,
        "exchanges": [
            {"service": exchange.service, "scopes": exchange.scopes}
            for exchange in service.exchanges
        ],
        "scopes": [scope.name for scope in service.scopes],
    }


def _patched(service: Service, values: Mapping[str, Any]) -> Service:
    rest = {name: value for name, value in values.items() if name not in _POLICY_FIELDS}
    if rest.get("account") is not None:
        # An impossible username stays as it is; the store refuses it.
        rest["account"] = usernames.lookup_form(rest["account"]) or rest["account"]
    if "scopes" in rest:
        rest["scopes"] = tuple(sorted(rest["scopes"], key=lambda scope: scope.name))
    if "exchanges" in rest:
        rest["exchanges"] = tuple(sorted(rest["exchanges"], key=lambda exchange: exchange.service))
    policy = {name: value for name, value in values.items() if name in _POLICY_FIELDS}
    return replace(service, policy=replace(service.policy, **policy), **rest)


def _removed_scopes(before: Service, after: Service) -> set[str]:
    return {scope.name for scope in before.scopes} - {scope.name for scope in after.scopes}


def _additions(service: Service) -> list[tuple[str, str]]:
    """Return what exchanges add, as (service, scope)."""
    return [
        (exchange.service, scope) for exchange in service.exchanges for scope in exchange.scopes
    ]


def _exchanged(service: Service | None) -> set[tuple[str | None, str, str | None]]:
    """Return what exchanges give, as (account, service, scope that is added)."""
    if service is None or not service.policy.enabled:
        return set()
    return {
        (service.account, exchange.service, scope)
        for exchange in service.exchanges
        for scope in (None, *exchange.scopes)
    }


def _target(service: Service) -> str:
    return f"service/{service.name}"
