"""Fields of JSON bodies, stricter than marshmallow's own: JSON types as they are.

marshmallow accepts ``"yes"`` as a boolean, ``true`` as 1 and ``1`` as text; an API that shell
scripts use must not guess.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from marshmallow import ValidationError, fields

from keyosk import times
from keyosk.errors import Invalid
from keyosk.model import USUAL_CREDENTIALS, CredentialKind
from keyosk.validation import LATEST_TIME

_BOTH: Final = "both"
_ANY: Final = "any"
#: A space before an offset such as ``+01:00``, because ``+`` in a query means a space.
_LOST_PLUS: Final = re.compile(r" (?=[0-9]{2}:[0-9]{2}$)", re.ASCII)


def described(description: str, *example: Any, enum: Sequence[Any] = ()) -> dict[str, Any]:
    """Return the metadata of a field for ``/openapi.json``.

    Args:
        description: What the field means.
        example: A value as the API takes or returns it, if the example of the schema has one.
        enum: The values that a lower layer accepts, where the field itself does not check them.
    """
    metadata: dict[str, Any] = {"description": description}
    if example:
        (metadata["example"],) = example
    if enum:
        metadata["enum"] = list(enum)
    return metadata


class Text(fields.Field[str]):
    """A JSON string of valid Unicode without NUL, which no database can hold."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> str:
        if not isinstance(value, str):
            raise ValidationError("Must be text.")
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise ValidationError("Must be valid Unicode without NUL.")
        return value


class Flag(fields.Field[bool]):
    """JSON ``true`` or ``false``."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> bool:
        if not isinstance(value, bool):
            raise ValidationError("Must be true or false.")
        return value


class QueryFlag(Flag):
    """``true`` or ``false`` in a query."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> bool:
        if value not in ("true", "false"):
            raise ValidationError("Must be true or false.")
        return bool(value == "true")


class Whole(fields.Field[int]):
    """A JSON number without a fraction."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValidationError("Must be a whole number.")
        if not -(2**53) < value < 2**53:
            raise ValidationError("Must be a number that JSON represents exactly (RFC 8259).")
        return value


class Object(fields.Field[Mapping[str, Any]]):
    """A JSON object of any members."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise ValidationError("Must be an object.")
        return value

    def _serialize(self, value: Any, *_: Any, **__: Any) -> Any:
        return None if value is None else dict(value)


class Accepts(fields.Field[frozenset[CredentialKind]]):
    """The logins that a service accepts: a kind, ``both``, ``any``, or a list of kinds.

    ``both``: by password and by API key, as is usual; ``any``: by a workload's token as well.
    """

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> frozenset[CredentialKind]:
        words = value if isinstance(value, list) else [value]
        if words in ([_BOTH], [_ANY]):
            return USUAL_CREDENTIALS if words == [_BOTH] else frozenset(CredentialKind)
        try:
            kinds = frozenset(CredentialKind(word) for word in words)
        except (ValueError, TypeError):
            kinds = frozenset()
        if not kinds:
            raise ValidationError(
                "Must be password, api_key, workload, both (password and api_key) or any; or a "
                "list of kinds."
            )
        return kinds

    def _serialize(self, value: Any, *_: Any, **__: Any) -> str | list[str]:
        if value == USUAL_CREDENTIALS:
            return _BOTH
        if len(value) == len(CredentialKind):
            return _ANY
        kinds = [str(kind) for kind in CredentialKind if kind in value]
        return kinds if len(kinds) > 1 else kinds[0]


class Time(fields.Field[int]):
    """RFC 3339 text outside, whole seconds since the epoch inside; fractions are cut off.

    ``validation.Faults.time`` checks that it is from 1970 to 9999, together with all other faults.
    """

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> int:
        if not isinstance(value, str) or not times.PATTERN.fullmatch(value):
            raise ValidationError("Must be a time such as 2030-01-31T12:00:00Z (RFC 3339).")
        try:
            return int(datetime.fromisoformat(value.upper()).timestamp())
        except (ValueError, OverflowError):
            raise ValidationError("Must be a time that exists.") from None

    def _serialize(self, value: Any, *_: Any, **__: Any) -> str | None:
        return None if value is None else times.rfc3339(value)


class LoneTime(Time):
    """A time that no later rule checks, such as a filter."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> int:
        if isinstance(value, str):
            value = _LOST_PLUS.sub("+", value)
        moment = super()._deserialize(value)
        if not 0 <= moment <= LATEST_TIME:
            raise ValidationError("Must be a time from 1970 to 9999.")
        return moment


class Date(fields.Field[int]):
    """A day (UTC) outside, days since 1970 inside; for responses."""

    def _serialize(self, value: Any, *_: Any, **__: Any) -> str | None:
        return None if value is None else times.rfc3339(value * 86_400)[:10]


def moment_of(text: str) -> int:
    """Return the seconds of an RFC 3339 time from 1970 to 9999. Raises ``Invalid``."""
    try:
        return int(LoneTime().deserialize(text))
    except ValidationError as error:
        raise Invalid.field("time", str(error.messages[0])) from None
