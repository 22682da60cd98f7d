"""Scopes that a request names: whether they exist, and which ones may be meant instead."""

import difflib
from collections.abc import Collection
from typing import Final

from keyosk.model import Caller
from keyosk.storage.services import ServiceStore
from keyosk.validation import Faults

#: The most faults of a request that get a suggestion.
_MOST_SUGGESTED: Final = 5
#: The most characters of a name that are compared.
_LONGEST_NAME: Final = 60


def check(
    faults: Faults, scopes: Collection[str], *, services: ServiceStore, caller: Caller
) -> None:
    """Add a fault for each scope that does not exist."""
    existing = services.existing_scopes(scopes)
    for scope in scopes:
        if scope not in existing:
            faults.no_scope("scopes", scope, meant=meant(faults, scope, services, caller=caller))


def meant(faults: Faults, scope: str, services: ServiceStore, *, caller: Caller) -> str | None:
    """Return the scope that a misspelt one may mean, for the first faults of a request.

    SECURITY: it names only what the caller holds, and looks for a few: a request has room for
    thousands.
    """
    if len(faults) >= _MOST_SUGGESTED:
        return None
    names = [name for name in services.scopes_like(scope) if caller.holds(name)]
    near = difflib.get_close_matches(scope[:_LONGEST_NAME], names, n=1, cutoff=0.8)
    return near[0] if near else None
