"""The differences of a change, by field."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

#: A missing value, unlike null.
_MISSING: Final = object()
#: The most fields of a change, values of a field, and characters of a value on a page.
_FIELDS: Final = 12
_VALUES: Final = 10
_LONGEST: Final = 160


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of one field; of a list, only removed and added items.

    Attributes:
        kept: The number of unchanged items.
        further: The number of further changed items.
    """

    name: str
    removed: tuple[str, ...]
    added: tuple[str, ...]
    kept: int = 0
    further: int = 0


def difference(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> list[Difference]:
    """Return the fields that differ, in the order of the old state."""
    old, new = before or {}, after or {}
    names = [*{**old, **new}][:_FIELDS]
    return [_of(name, old.get(name, _MISSING), new.get(name, _MISSING)) for name in names]


def _of(name: str, old: Any, new: Any) -> Difference:
    before, after = _texts(old), _texts(new)
    kept: set[str] = set()
    if isinstance(old, list) and isinstance(new, list):
        kept = set(before) & set(after)
    removed = [text for text in before if text not in kept]
    added = [text for text in after if text not in kept]
    return Difference(
        name,
        _short(removed),
        _short(added),
        kept=len(kept),
        further=max(0, len(removed) - _VALUES) + max(0, len(added) - _VALUES),
    )


def _texts(value: Any) -> list[str]:
    if value is _MISSING:
        return []
    values = value if isinstance(value, list) and value else [value]
    return [json.dumps(each, ensure_ascii=False, sort_keys=True) for each in values]


def _short(texts: Collection[str]) -> tuple[str, ...]:
    return tuple(
        text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…" for text in list(texts)[:_VALUES]
    )
