"""Compares the claims of a token with those of a rule.

A claim is named as in the token, or by a JSON Pointer (RFC 6901) if it is nested:
``/kubernetes.io/namespace``. Values are equal if they have the same JSON type and value; text is
compared by code points, so that lookalikes differ.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from keyosk import strict_json
from keyosk.model import ClaimValue, WorkloadRule
from keyosk.strict_json import BadJson

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
    """Return the value of a claim; ``None`` if the token lacks it."""
    current: Any = claims
    for step in path(name):
        current = current.get(step, _MISSING) if isinstance(current, dict) else _MISSING
    return None if current is _MISSING else current


def parse(texts: Iterable[str]) -> dict[str, Any]:
    """Parse NAME=TEXT, or NAME:=JSON for values that are not text.

    A claim that is given repeatedly has several values. Raises ``ValueError``.
    """
    values: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{text[:200]}: must be NAME=TEXT or NAME:=JSON.")
        is_json = name.endswith(":")
        values.setdefault(name.removesuffix(":"), []).append(
            _json(text, value) if is_json else value
        )
    return {name: each[0] if len(each) == 1 else each for name, each in values.items()}


def _json(text: str, value: str) -> Any:
    try:
        return strict_json.parse(value)
    except BadJson as error:
        raise ValueError(f"{text[:200]}: the value {error}.") from None


def render(claims: Mapping[str, Any]) -> str:
    """Return the claims of a rule in the format of ``parse``, one on each line."""
    return "\n".join(
        f"{name}={value}" if isinstance(value, str) else f"{name}:={json.dumps(value)}"
        for name, values in claims.items()
        for value in (values if isinstance(values, list) else [values])
    )


def has_star(values: Iterable[ClaimValue]) -> bool:
    """Return whether one of the accepted values is a pattern with ``*``."""
    return any(isinstance(value, str) and value.endswith("*") for value in values)


def misses(rule: WorkloadRule, claims: Mapping[str, Any], prefixes: Iterable[str]) -> list[str]:
    """Return the claims in which a token differs from the rule; none if it matches.

    ``prefixes``: the claims in which a value may end with ``*``.
    """
    open_ended = frozenset(prefixes)
    return [
        name
        for name, accepted in rule.claims.items()
        if not _fits(value(claims, name), accepted, open_ended=name in open_ended)
    ]


def _fits(actual: Any, accepted: Iterable[ClaimValue], *, open_ended: bool) -> bool:
    return any(_equals(actual, each, open_ended=open_ended) for each in accepted)


def _equals(actual: Any, accepted: ClaimValue, *, open_ended: bool) -> bool:
    # SECURITY: to Python, 1 == True and 1 == 1.0; a value of another type must not match.
    if type(actual) is not type(accepted):
        return False
    if open_ended and isinstance(accepted, str) and accepted.endswith("*"):
        return str(actual).startswith(accepted[:-1])
    return bool(actual == accepted)
