"""JSON merge patch (RFC 7396), and its inverse."""

import json
from collections.abc import Mapping
from typing import Any


def merge_patch(target: Any, patch: Any) -> Any:
    """Return ``target`` with ``patch`` applied (RFC 7396 section 2); neither is changed."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def merge_difference(target: Mapping[str, Any], desired: Mapping[str, Any]) -> dict[str, Any]:
    """Return the merge patch that turns ``target`` into ``desired``; empty if they are the same.

    ``desired`` has no ``None`` as a member, which no merge patch can write.
    """
    patch: dict[str, Any] = {name: None for name in target if name not in desired}
    for name, value in desired.items():
        old = target.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            inner = merge_difference(old, value)
            if inner:
                patch[name] = inner
        elif name not in target or not is_same(old, value):
            patch[name] = value
    return patch


def is_same(one: Any, other: Any) -> bool:
    """Return whether two values are the same in JSON; to Python, ``true`` and 1 are equal."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
