"""Comparing the claims of a token with those that a rule names.

A claim is named as in the token, or by a JSON Pointer (RFC 6901) if it is nested:
``/kubernetes.io/namespace``. Values are equal if they are of the same JSON type and equal; text
character by character, so that what only looks alike is not.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from keyosk.model import ClaimValue, WorkloadRule

_MISSING: Final = object()
_ESCAPE: Final = (("~1", "/"), ("~0", "~"))


def path(name: str) -> tuple[str, ...]:
    """Return the steps to a claim. Raises ``ValueError`` if the name is not well-formed."""
    if not name.startswith("/"):
        if not name:
            raise ValueError("a claim has a name")
        return (name,)
    steps = []
    for part in name[1:].split("/"):
        if "~" in part.replace("~0", "").replace("~1", ""):
            raise ValueError("in a JSON Pointer ~ is written ~0, and / is written ~1")
        step = part
        for escape, character in _ESCAPE:
            step = step.replace(escape, character)
        steps.append(step)
    if not all(steps):
        raise ValueError("a step of a JSON Pointer to a claim has a name")
    return tuple(steps)


def value(claims: Mapping[str, Any], name: str) -> Any:
    """Return what a token says in a claim; ``None`` if it says nothing."""
    found: Any = claims
    for step in path(name):
        found = found.get(step, _MISSING) if isinstance(found, dict) else _MISSING
    return None if found is _MISSING else found


def misses(rule: WorkloadRule, claims: Mapping[str, Any], prefixes: Iterable[str]) -> list[str]:
    """Return the claims in which a token is not as the rule says; none if it fits.

    ``prefixes``: the claims in which a value may end with ``*``.
    """
    open_ended = frozenset(prefixes)
    return [
        name
        for name, wanted in rule.claims.items()
        if not _fits(value(claims, name), wanted, open_ended=name in open_ended)
    ]


def _fits(found: Any, wanted: Iterable[ClaimValue], *, open_ended: bool) -> bool:
    return any(_equals(found, each, open_ended=open_ended) for each in wanted)


def _equals(found: Any, wanted: ClaimValue, *, open_ended: bool) -> bool:
    # SECURITY: 1 is True, and 1.0 is 1, to Python; a claim of another type is another claim.
    if type(found) is not type(wanted):
        return False
    if open_ended and isinstance(wanted, str) and wanted.endswith("*"):
        return str(found).startswith(wanted[:-1])
    return bool(found == wanted)
