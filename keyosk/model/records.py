"""Records of the past, and queries of lists."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

#: The actions in the audit log.
AuditAction = Literal[
    "account.change",
    "account.create",
    "account.delete",
    "api_key.change",
    "api_key.create",
    "api_key.delete",
    "api_key.first_use",
    "api_key.rotate",
    "audit.prune",
    "console_session.begin",
    "console_session.confirm",
    "console_session.end",
    "grants.change",
    "issuer.change",
    "issuer.create",
    "issuer.delete",
    "login.failed",
    "login.throttled",
    "password.delete",
    "password.set",
    "role.change",
    "role.create",
    "role.delete",
    "rule.change",
    "rule.create",
    "rule.delete",
    "rule.refused",
    "second_factor.create",
    "second_factor.delete",
    "second_factor.failed",
    "second_factor.use",
    "service.change",
    "service.create",
    "service.delete",
    "service.verify",
    "session.end",
    "session.reuse",
    "signing_key.compromise",
    "signing_key.import",
    "signing_key.retire",
    "signing_key.rotate",
    "token.issue",
    "token.revoke",
    "tokens.revoke",
    "workload.login",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """A change or security event: who, from where, what, and with which outcome.

    Attributes:
        credential: ``password``, or the id of the API key.
        via: ``console`` for what was done in the console; otherwise ``None``.
        target: What it was done to, such as ``account/<id>``.
        before: The fields that changed, as they were before; never a secret.
        after: The fields that changed, as they are afterwards; never a secret.
        sequence: The place of the row in the chain; ``None`` until it is sealed.
        hash: The hash of the row in the chain; ``None`` until it is sealed.
    """

    id: str
    time: int
    actor: str | None
    actor_name: str
    credential: str | None
    address: str | None
    request_id: str | None
    action: str
    target: str | None
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    outcome: str
    via: str | None = None
    sequence: int | None = None
    hash: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The hash of the audit chain at one place; ``signature`` is a JWS over both."""

    sequence: int
    hash: str
    time: int
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginFailure:
    """Failed logins of one account and address in one minute.

    Attributes:
        account: The id of the account; empty for usernames without an account.
        count: How many showed a wrong password or API key.
        throttled: Whether there were more, which were refused without a check.
        second_factors: How many showed a wrong second factor after a right password.
    """

    account: str
    address: str
    minute: int
    count: int = 1
    throttled: bool = False
    second_factors: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """The refusals of an account in a minute that have no rows of their own.

    ``sample``: the members that identify the caller in the row of the first of them.
    """

    account: str
    credential: str
    action: str
    minute: int
    count: int
    sample: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """The requested part of a list, and its order.

    A list ends, however many objects are created, changed or renamed in the meantime.

    Attributes:
        after: The sort value and id of the last object of the page before.
        end: The sort value and id of the last object of the list when the first page was read.
        newest: The id of the newest object at that time.
        filters: The filter values by name; each list says which it knows.
        counted: The number up to which objects are counted; ``None`` for all.
    """

    limit: int = 50
    sort: str = "created_at"
    descending: bool = False
    after: tuple[Any, Any] | None = None
    end: tuple[Any, Any] | None = None
    newest: str | None = None
    filters: Mapping[str, Any] = field(default_factory=dict)
    counted: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """The versions at which an object may be changed: one of ``any_of``, none of ``none_of``."""

    any_of: frozenset[int] | None = None
    none_of: frozenset[int] = frozenset()

    def admit(self, version: int) -> bool:
        """Return whether an object at this version may be changed."""
        return (self.any_of is None or version in self.any_of) and version not in self.none_of
