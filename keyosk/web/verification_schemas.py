"""The shapes of what a test of a service with bad tokens found."""

from typing import Final
from urllib.parse import urlsplit

from marshmallow import ValidationError, fields, validate

from keyosk.web.fields import Flag, Text, Time, described
from keyosk.web.schemas import PAST, ResponseSchema, StrictSchema

_URL: Final = described(
    "The endpoint that was tested, without login, query and fragment: these may be secrets.",
    "https://todo.example.com/todos",
)
_PASSED: Final = described("Whether it treated every token as it must.", False)
_VERDICT: Final = described(
    "What was found, in one line.",
    "Failed: 1 bad token was accepted or answered with an error: expired.",
)
_FAILED: Final = described("The names of the tokens that it did not treat as it must.", ["expired"])


def _check_url(text: str) -> None:
    try:
        url = urlsplit(text)
        is_plain = url.scheme in ("http", "https") and bool(url.hostname) and "@" not in url.netloc
    except ValueError:
        is_plain = False
    # SECURITY: parts of a URL that may be secret are not stored. urlsplit ignores line ends.
    if not is_plain or not text.isprintable() or any(each in text for each in " ?#\\"):
        raise ValidationError("Must be an http or https URL without login, query and fragment.")


class VerificationNew(StrictSchema):
    """What a test of a service found."""

    url = Text(required=True, validate=[validate.Length(max=500), _check_url], metadata=_URL)
    passed = Flag(required=True, metadata=_PASSED)
    verdict = Text(required=True, validate=validate.Length(max=2_000), metadata=_VERDICT)
    failed = fields.List(
        Text(validate=validate.Length(max=100)),
        required=True,
        validate=validate.Length(max=100),
        metadata=_FAILED,
    )


class VerificationSchema(ResponseSchema):
    """What the last test of a service found."""

    verified_at = Time(metadata=described("When it was reported.", PAST))
    verified_by = Text(metadata=described("The username of who reported it.", "ci"))
    url = Text(metadata=_URL)
    passed = Flag(metadata=_PASSED)
    verdict = Text(metadata=_VERDICT)
    failed = fields.List(Text(), metadata=_FAILED)
