"""Request bodies: JSON that is parsed strictly and validated by a schema."""

from typing import Any, Final

from marshmallow import Schema, ValidationError
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from keyosk import strict_json
from keyosk.errors import Fault, Invalid
from keyosk.strict_json import BadJson
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
    """Parse a JSON text. Raises ``MalformedBody``."""
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        raise MalformedBody("The body is not UTF-8.") from None
    try:
        return strict_json.parse(decoded)
    except BadJson as error:
        raise MalformedBody(f"The body {error}.") from None


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
