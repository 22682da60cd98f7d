"""The access of a login to a container registry, from the scopes that it holds.

The registry's service owns a scope for each action on a repository, ``repository:team/app:pull``. A
registry requests several actions at once, ``repository:team/app:pull,push``, and finds the granted
ones in the token's ``access`` claim (distribution's token specification).
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from keyosk.errors import InvalidScope

#: The most resources in one request; clients request a few.
_MOST: Final = 100


def access(
    parameters: Iterable[str], held: Collection[str]
) -> tuple[list[Mapping[str, Any]], tuple[str, ...]]:
    """Return the ``access`` claim for the ``scope`` parameters of a request, and the scopes used.

    ``held``: the scopes of the registry's service. What is not held or not understood is left out,
    which the specification does not call an error. Raises ``InvalidScope`` for far too many
    resources.
    """
    resources = dict.fromkeys(item for text in parameters for item in text.split(" ") if item)
    if len(resources) > _MOST:
        raise InvalidScope(f"A request may name at most {_MOST} resources.")
    owned = [(scope, *_parts(scope)) for scope in held]
    claim: list[Mapping[str, Any]] = []
    used: dict[str, None] = {}
    for resource in resources:
        kind, name, actions = _parts(resource)
        granted = []
        for action in dict.fromkeys(actions.split(",")):
            scopes = [
                scope
                for scope, of_kind, pattern, allowed in owned
                if kind == of_kind and _covers(pattern, name) and allowed in (action, "*")
            ]
            used |= dict.fromkeys(scopes)
            granted += [action] if scopes and action else []
        if granted:
            claim.append({"type": kind, "name": name, "actions": granted})
    return claim, tuple(used)


def _parts(text: str) -> tuple[str, str, str]:
    """Return type, name and actions; the name may contain colons itself, as in a host's port."""
    kind, _, rest = text.partition(":")
    name, _, actions = rest.rpartition(":")
    return kind, name, actions


def _covers(pattern: str, name: str) -> bool:
    """Return whether a scope for ``pattern``, which may end with ``*``, covers ``name``."""
    if not name:
        return False
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
