"""Declarations: what somebody wrote down that an installation shall have, and the steps to there.

Values only; ``planning`` finds the steps and ``declarations`` takes them.

**Who owns what.** A declaration owns the fields that it names, of the objects that it names; a
field that it does not name stays as it is. Under ``grants`` of an account it owns all that the
account holds, but what another declaration gave; under ``grants`` by themselves only those listed.
Whatever a declaration with an ``owner`` makes is remembered as that owner's: no other declaration
may name it, and one that says ``prune`` deletes what it made earlier and names no more. It never
deletes what it did not make.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from keyosk.credentials import usernames
from keyosk.model import KEYOSK, Grant
from keyosk.validation import Faults

_OWNER: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")

#: The name of a grant on an account: a scope's or a role's, one of the two.
GrantName = tuple[str | None, str | None]


class Noun(StrEnum):
    """What a step is about."""

    SERVICE = "service"
    ROLE = "role"
    ACCOUNT = "account"
    GRANTS = "grants"


class Action(StrEnum):
    """What a step does."""

    CREATE = "create"
    CHANGE = "change"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Declared:
    """One object that a declaration names, with the fields that it names of it.

    ``path``: where it stands in the declaration, such as ``accounts.0``. Values are those of
    ``keyosk.model``; ``None`` asks for what a new object has. ``grants`` are ``Grant`` values.
    """

    path: str
    name: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """All that one document declares; ``grants`` by the username of their account."""

    owner: str | None = None
    prune: bool = False
    services: tuple[Declared, ...] = ()
    roles: tuple[Declared, ...] = ()
    accounts: tuple[Declared, ...] = ()
    grants: tuple[Declared, ...] = ()

    def check(self) -> None:
        """Raise ``Invalid`` for what is wrong with the declaration in itself."""
        faults = Faults()
        if self.owner is not None and not _OWNER.fullmatch(self.owner):
            faults.add("owner", "must be 1 to 63 of a-z, 0-9, dot, dash and underscore")
        if self.prune and self.owner is None:
            faults.add("prune", "requires an owner: only what its file created is deleted")
        for each in self.services:
            if each.name == KEYOSK:
                faults.add(f"{each.path}.name", "is Keyosk's own service, which cannot be changed")
        _refuse_repeated(faults, "name", [(each, each.name) for each in self.services])
        _refuse_repeated(faults, "name", [(each, each.name) for each in self.roles])
        _refuse_repeated(faults, "username", _by_username(self.accounts))
        _refuse_repeated(faults, "account", _by_username(self.grants))
        ruled = {name for each, name in _by_username(self.accounts) if "grants" in each.fields}
        for each, name in _by_username(self.grants):
            if name in ruled:
                faults.add(f"{each.path}.account", "has its grants under accounts")
        for each in (*self.accounts, *self.grants):
            names = Counter(name_of(grant) for grant in each.fields.get("grants", ()))
            for (scope, role), times in names.items():
                if times > 1:
                    faults.add(f"{each.path}.grants", f"{scope or role} is given twice")
        faults.raise_if_any()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One difference between what is and what is declared.

    ``before`` and ``after`` hold the fields that differ; the first is empty for what is made, the
    second for what is deleted. ``owner`` among them: who the object is remembered as made by.
    ``path``: where the declaration says so. ``effective_at``: once it was taken and took rights
    away, the moment from which no service accepts a token from before it.
    """

    action: Action
    noun: Noun
    name: str
    path: str
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    effective_at: int | None = None


def name_of(grant: Grant) -> GrantName:
    """Return what tells the grants of one account apart."""
    return grant.scope, grant.role


def by_name(grants: Iterable[Grant]) -> dict[GrantName, Grant]:
    """Return the grants of one account by their names."""
    return {name_of(grant): grant for grant in grants}


def username_of(reference: str) -> str:
    """A username as it is stored; what cannot be one as it is, to be refused where it is used."""
    return usernames.lookup_form(reference) or reference


def _by_username(items: Iterable[Declared]) -> list[tuple[Declared, str]]:
    return [(each, username_of(each.name)) for each in items]


def _refuse_repeated(faults: Faults, member: str, items: list[tuple[Declared, str]]) -> None:
    seen = set()
    for each, name in items:
        if name in seen:
            faults.add(f"{each.path}.{member}", "is given twice")
        seen.add(name)
