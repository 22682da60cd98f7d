"""Rules that many inputs share. All faults of an input are collected and reported at once."""

import json
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any, Final, Protocol, TypeVar

from keyosk.errors import Fault, Invalid, Stale
from keyosk.ids import is_id
from keyosk.model import NAME, Versions

LONGEST_NAME: Final = 200
LONGEST_TEXT: Final = 2_000
LARGEST_OBJECT: Final = 16 * 1024  # bytes of JSON
DEEPEST: Final = 32  # levels of nesting
LATEST_TIME: Final = 253_402_300_799  # 9999-12-31T23:59:59Z, the last that RFC 3339 can write


class Faults:
    """Collects faults; ``raise_if_any`` raises them together."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def __len__(self) -> int:
        """Return the number of faults so far."""
        return len(self._faults)

    def add(self, field: str, message: str, *, item: str | None = None) -> None:
        """Note that ``field`` is wrong; ``item``: which of its values, if it may have several."""
        self._faults.append(
            Fault(field, message if item is None else f"{item[:200] or repr('')} {message}")
        )

    def text(
        self,
        field: str,
        value: str,
        *,
        longest: int,
        required: bool = False,
        item: str | None = None,
    ) -> None:
        """Check a text: at most ``longest`` characters, and no control but line breaks and tabs."""
        if required and not value.strip():
            self.add(field, "must not be empty", item=item)
        elif len(value) > longest:
            self.add(field, f"must have at most {longest} characters", item=item)
        elif not is_clean(value):
            self.add(field, "must not contain control characters", item=item)

    def name(self, value: str) -> None:
        """Check the name of a service, a role, an issuer or a rule, which is never an id."""
        if not NAME.fullmatch(value) or is_id(value):
            self.add(
                "name",
                "must be 1 to 63 of a-z, 0-9, dot, dash and underscore, "
                "and begin and end with a letter or digit",
            )

    def time(
        self,
        field: str,
        value: int | None,
        *,
        after: int | None = None,
        item: str | None = None,
    ) -> None:
        """Check that a time can be written as RFC 3339, and is after ``after`` if that is given."""
        if value is None:
            return
        if not 0 <= value <= LATEST_TIME:
            self.add(field, "must be a time from 1970 to 9999", item=item)
        elif after is not None and value <= after:
            self.add(field, "must be in the future", item=item)

    def between(self, field: str, value: int | None, lowest: int, *, highest: int) -> None:
        """Check a number of seconds, unless it is ``None``."""
        if value is not None and not lowest <= value <= highest:
            self.add(field, f"must be {lowest} to {highest} seconds")

    def one_of(self, field: str, value: str | None, words: Collection[str]) -> None:
        """Check that a value is one of some words, unless it is ``None``."""
        if value is not None and value not in words:
            self.add(field, "must be one of " + ", ".join(words))

    def json_object(self, field: str, value: Mapping[str, Any]) -> None:
        """Check a JSON object: its size, its depth, and that it has no NUL character."""
        if not value:
            return
        if not _is_flat_and_clean(value, DEEPEST):
            self.add(field, f"must have at most {DEEPEST} levels and no NUL character")
            return
        try:
            size = len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
        except (TypeError, ValueError):
            self.add(field, "must be a JSON object of finite numbers and valid Unicode")
            return
        if size > LARGEST_OBJECT:
            self.add(field, f"must have at most {LARGEST_OBJECT} bytes as JSON")

    def extend(self, error: Invalid) -> None:
        """Add the faults of an error."""
        self._faults.extend(error.faults)

    def no_scope(self, field: str, scope: str, *, meant: str | None = None) -> None:
        """Add the fault that a scope does not exist; ``meant``: the one that may be meant."""
        hint = f"; did you mean {meant}?" if meant else ""
        if "," in scope:
            hint = "; name each scope by itself, without commas"
        self.add(field, f"there is no scope {scope[:200]}{hint}")

    def raise_if_any(self) -> None:
        """Raise ``Invalid`` with all faults, if there are any."""
        if self._faults:
            raise Invalid(self._faults)


def is_clean(text: str) -> bool:
    """Return whether a text has no lone surrogate, and no control but line breaks and tabs."""
    if text.isascii() and text.isprintable():  # most texts; character by character takes 20 us
        return True
    return not any(
        unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t"
        for character in text
    )


def _is_flat_and_clean(value: Any, levels: int) -> bool:
    if isinstance(value, str):
        return "\0" not in value
    if isinstance(value, Mapping):
        inner = (*value.keys(), *value.values())
    elif isinstance(value, list):
        inner = tuple(value)
    else:
        return True
    return levels > 0 and all(_is_flat_and_clean(item, levels - 1) for item in inner)


class Versioned(Protocol):
    """An object with a version."""

    @property
    def version(self) -> int:
        """The number that each write changes."""


Object = TypeVar("Object", bound=Versioned)


def check_version(current: Object, versions: Versions | None) -> Object:
    """Return the object if it is at a wanted version (``None``: any). Raises ``Stale``.

    For changes that turn out to change nothing; for all others the database decides.
    """
    if versions is not None and not versions.admit(current.version):
        raise Stale.version("object")
    return current
