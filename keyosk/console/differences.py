"""What a change changed: of each field what went and what came."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

#: No value at all, which is not null.
_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Difference:
    """One field: of a list only the items that went or came, and how many stayed."""

    name: str
    gone: tuple[str, ...]
    new: tuple[str, ...]
    kept: int = 0


def difference(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> list[Difference]:
    """Return the fields that differ, those of before first."""
    old, new = before or {}, after or {}
    return [_of(name, old.get(name, _MISSING), new.get(name, _MISSING)) for name in {**old, **new}]


def _of(name: str, old: Any, new: Any) -> Difference:
    if isinstance(old, list) and isinstance(new, list):
        before, after = _texts(old), _texts(new)
        return Difference(
            name,
            tuple(text for text in before if text not in after),
            tuple(text for text in after if text not in before),
            sum(text in after for text in before),
        )
    return Difference(name, _present(old), _present(new))


def _present(value: Any) -> tuple[str, ...]:
    return () if value is _MISSING else (_text(value),)


def _texts(values: list[Any]) -> list[str]:
    return [_text(value) for value in values]


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
