"""What is written down of the past, and how lists are asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

#: What the audit log can say that was done.
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
    "grants.change",
    "login.failed",
    "login.throttled",
    "password.delete",
    "password.set",
    "role.change",
    "role.create",
    "role.delete",
    "rule.refused",
    "service.change",
    "service.create",
    "service.delete",
    "session.end",
    "session.reuse",
    "signing_key.compromise",
    "signing_key.import",
    "signing_key.retire",
    "signing_key.rotate",
    "token.issue",
    "token.revoke",
    "tokens.revoke",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One change or security event: who, whence, what, and how it ended.

    ``credential`` is the API key's id, or ``password``; ``target`` such as ``account/<id>``.
    ``before`` and ``after`` hold the fields that changed, never a secret. ``sequence`` and ``hash``
    are the row's place in the chain, ``None`` until it is sealed.
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
    """Failed logins of one account (empty: of names without one), address and minute.

    ``throttled``: there were others besides the ``count``, which were refused unread.
    """

    account: str
    address: str
    minute: int
    count: int = 1
    throttled: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an account was refused in a minute, beside what has rows of its own.

    ``sample``: the row that the first of them would have had, as far as it says who it was.
    """

    account: str
    credential: str
    action: str
    minute: int
    count: int
    sample: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """Which part of a list is asked for, in which order.

    ``after`` is where the page before ended: its last object's sort value and id. ``end`` is where
    the whole list ends, itself included: where it ended when the first page was read. ``newest`` is
    the id of the newest object of then. So a list ends, however many objects are made, changed or
    renamed meanwhile. ``filters`` by name; each list says which it knows.
    """

    limit: int = 50
    sort: str = "created_at"
    descending: bool = False
    after: tuple[Any, Any] | None = None
    end: tuple[Any, Any] | None = None
    newest: str | None = None
    filters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """At which versions an object may be changed: among these (``None``: any), but these."""

    among: frozenset[int] | None = None
    but: frozenset[int] = frozenset()

    def admit(self, version: int) -> bool:
        """Whether an object at this version may be changed."""
        return (self.among is None or version in self.among) and version not in self.but
