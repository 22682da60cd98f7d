"""Request bodies: JSON that is parsed strictly and validated by a schema."""

import json
from typing import Any, Final

from marshmallow import Schema, ValidationError
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from keyosk.errors import Fault, Invalid
from keyosk.web.current import current_request

#: The media types of bodies, of merge patches (RFC 7396) and of all others.
PATCH_TYPES: Final = ("application/merge-patch+json", "application/json")
JSON_TYPES: Final = ("application/json",)


class MalformedBody(BadRequest):
    """A body that is not acceptable JSON; the description tells the caller why."""


class CodedBody(UnsupportedMediaType):
    """A body in a content coding, such as gzip (RFC 9110 section 8.4)."""

    description = "The body must be sent as it is, without a Content-Encoding."


class WrongMediaType(UnsupportedMediaType):
    """A body of a media type that an endpoint does not read; the description names those it does.

    ``UnsupportedMediaType`` itself is for endpoints that read JSON.
    """


class _DuplicateMember(ValueError):
    """An object in the body has the same member twice."""


def load(schema: Schema, *, optional: bool = False) -> dict[str, Any]:
    """Return the body of the request, validated by ``schema``. Raises ``Invalid``; 400, 415.

    Args:
        schema: The schema of the body.
        optional: Whether an absent body counts as an empty object.
    """
    request = current_request()
    if optional and not request.get_data():
        return {}
    return checked(schema, read(PATCH_TYPES if request.method == "PATCH" else JSON_TYPES))


def checked(schema: Schema, document: Any) -> dict[str, Any]:
    """Return a document, validated by ``schema``. Raises ``Invalid``."""
    try:
        loaded: dict[str, Any] = schema.load(document)
    except ValidationError as error:
        raise Invalid(faults_of(error.messages_dict)) from None
    return loaded


def check_coding() -> None:
    """Raise ``CodedBody`` for a body that would have to be decoded first.

    SECURITY: whoever looks at it on the way decodes it, and would see another body than Keyosk.
    """
    if current_request().headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise CodedBody


def read(media_types: tuple[str, ...]) -> Any:
    """Return the JSON document in the body of the request."""
    check_coding()
    request = current_request()
    if request.mimetype not in media_types:
        raise UnsupportedMediaType
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    if charset not in ("utf-8", "utf8"):
        raise UnsupportedMediaType
    return parse(request.get_data())


def parse(text: bytes) -> Any:
    """Parse a JSON text (RFC 8259) without duplicate names and without NaN or Infinity."""
    try:
        return _DECODER.decode(text.decode("utf-8"))
    except _DuplicateMember:
        raise MalformedBody("An object in the body has the same member twice.") from None
    except json.JSONDecodeError as error:
        raise MalformedBody(
            f"The body is not JSON: {error.msg}, at character {error.pos + 1}."
        ) from None
    except (ValueError, RecursionError):
        raise MalformedBody("The body is not JSON in UTF-8, or is nested too deeply.") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _DuplicateMember
    return members


def _no_number(_: str) -> Any:
    raise ValueError


#: One instance, because creating it takes as long as reading a small body.
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number)


def faults_of(messages: Any, path: str = "") -> list[Fault]:
    """Return the nested messages of marshmallow as a flat list of faults."""
    if isinstance(messages, dict):
        return [
            fault
            for name, inner in messages.items()
            for fault in faults_of(inner, path if name == "_schema" else _join(path, str(name)))
        ]
    return [Fault(path or "body", str(message).rstrip(".")) for message in messages]


def _join(path: str, name: str) -> str:
    return f"{path}.{name[:200]}" if path else name[:200]
