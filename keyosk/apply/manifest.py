"""Manifests, which describe what an installation should have, and the steps that lead there.

Only values; ``planner`` finds the steps and ``executor`` executes them.

**Ownership.** A manifest determines the fields that it has, of the objects that it has; other
fields stay as they are. The ``grants`` of an account are all grants of that account, except those
that another manifest gave; ``grants`` at the top level are only those listed. Objects that a
manifest with an ``owner`` creates belong to that owner: no other manifest may contain them. With
``prune``, objects that it created earlier and no longer contains are deleted. It never deletes
anything else.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from keyosk.credentials import usernames
from keyosk.ids import is_id
from keyosk.model import KEYOSK, Grant
from keyosk.validation import Faults

_OWNER: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")

#: The name of a grant on an account: a scope's or a role's, one of the two.
GrantName = tuple[str | None, str | None]


class Noun(StrEnum):
    """The kind of object of a step."""

    SERVICE = "service"
    ROLE = "role"
    ACCOUNT = "account"
    GRANTS = "grants"
    ISSUER = "issuer"
    RULE = "rule"


class Action(StrEnum):
    """The kind of change of a step."""

    CREATE = "create"
    CHANGE = "change"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One object of a manifest, with the fields that the manifest has.

    ``path``: its place in the manifest, such as ``accounts.0``. Values are those of
    ``keyosk.model``; ``None`` stands for the default. ``grants`` are ``Grant`` values.
    """

    path: str
    name: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of one manifest; ``grants`` by the username of their account.

    ``rules``: by the name of their issuer and their own, with a slash between.
    """

    owner: str | None = None
    prune: bool = False
    services: tuple[ManifestEntry, ...] = ()
    roles: tuple[ManifestEntry, ...] = ()
    accounts: tuple[ManifestEntry, ...] = ()
    grants: tuple[ManifestEntry, ...] = ()
    issuers: tuple[ManifestEntry, ...] = ()
    rules: tuple[ManifestEntry, ...] = ()

    def check(self) -> None:
        """Raise ``Invalid`` for faults of the manifest in itself."""
        faults = Faults()
        if self.owner is not None and not _OWNER.fullmatch(self.owner):
            faults.add("owner", "must be 1 to 63 of a-z, 0-9, dot, dash and underscore")
        if self.prune and self.owner is None:
            faults.add("prune", "requires an owner: only what its file created is deleted")
        for item in self.services:
            if item.name == KEYOSK:
                faults.add(f"{item.path}.name", "is Keyosk's own service, which cannot be changed")
        _refuse_repeated(faults, "name", [(item, item.name) for item in self.services])
        for objects in (self.roles, self.issuers, self.rules):
            _refuse_repeated(faults, "name", [(item, item.name) for item in objects])
        for item in self.rules:
            if is_id(issuer_and_name(item.name)[0]):
                faults.add(f"{item.path}.issuer", "must be the name of the issuer")
        _refuse_repeated(faults, "username", _by_username(self.accounts))
        _refuse_repeated(faults, "account", _by_username(self.grants))
        ruled = {name for item, name in _by_username(self.accounts) if "grants" in item.fields}
        for item, name in _by_username(self.grants):
            if name in ruled:
                faults.add(f"{item.path}.account", "has its grants under accounts")
        for item in (*self.accounts, *self.grants):
            names = Counter(name_of(grant) for grant in item.fields.get("grants", ()))
            for (scope, role), times in names.items():
                if times > 1:
                    faults.add(f"{item.path}.grants", f"{scope or role} is given twice")
        faults.raise_if_any()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One difference between the present state and the manifest.

    ``before`` and ``after`` hold the fields that differ; the first is empty for a new object, the
    second for a deleted one. ``owner`` among them is the owner of the object. ``path``: the place
    in the manifest. ``effective_at``: set once a step removed rights; from then on no service
    accepts a token from before it.
    """

    action: Action
    noun: Noun
    name: str
    path: str
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    effective_at: int | None = None


def name_of(grant: Grant) -> GrantName:
    """Return the name of a grant, which is unique within its account."""
    return grant.scope, grant.role


def by_name(grants: Iterable[Grant]) -> dict[GrantName, Grant]:
    """Return the grants of one account by their names."""
    return {name_of(grant): grant for grant in grants}


def issuer_and_name(rule: str) -> tuple[str, str]:
    """Return the name of a rule's issuer, and its own."""
    issuer, _, name = rule.partition("/")
    return issuer, name


def username_of(reference: str) -> str:
    """Return a username as it is stored; an invalid one unchanged, to be refused later."""
    return usernames.lookup_form(reference) or reference


def _by_username(items: Iterable[ManifestEntry]) -> list[tuple[ManifestEntry, str]]:
    return [(item, username_of(item.name)) for item in items]


def _refuse_repeated(faults: Faults, member: str, items: list[tuple[ManifestEntry, str]]) -> None:
    seen = set()
    for item, name in items:
        if name in seen:
            faults.add(f"{item.path}.{member}", "is given twice")
        seen.add(name)
