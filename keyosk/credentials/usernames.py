"""Usernames: which are allowed, and the normal form for storing and finding them.

The only user of precis_i18n. Two spellings are the same account if and only if they have the same
normal form, so uniqueness in the database is equality of normal forms.
"""

import unicodedata
import uuid

import precis_i18n

from keyosk import errors
from keyosk.credentials import api_key_format

MAX_LENGTH = 255
"""The length of the longest username, in code points of its normal form."""

# NFC composes at most four code points into one, so a longer text is too long in any case.
_MAX_RAW_LENGTH = 4 * MAX_LENGTH
_SHORTEST_UUID = 32
"""Digits in each spelling of a UUID that Python reads."""

_FORBIDDEN = frozenset(":/\\?#%")
_RESERVED = frozenset({".", "..", "me", "import", "export"})

_PROFILE = precis_i18n.get_profile("UsernameCaseMapped")

_REASONS = {
    "bidi_rule": "mixes writing directions in a way that can be misread (RFC 5893 section 2)",
    "not_idempotent": "has no stable form (RFC 8264 section 7)",
}


def normalise(username: str) -> str:
    r"""Return the normal form of a username: RFC 8265 section 3.3, UsernameCaseMapped, in NFC.

    Fullwidth and halfwidth characters become ordinary ones, capital letters small ones (by
    ``toLowerCase``, as the RFC prefers, not by case folding: ``straße`` and ``strasse`` stay two
    names), composed and decomposed spellings the same. The result normalises to itself.

    Beyond the RFC a username

    - has 1 to 255 code points, so that it fits every column, header and log line;
    - has no ``:``, which ends the username in HTTP Basic (RFC 7617 section 2);
    - has no ``/``, ``\``, ``?``, ``#`` or ``%``, which mean something in a URL's path, where a
      username names its account, and which proxies decode or rewrite;
    - is not ``.`` or ``..``, which clients and proxies remove from a path (RFC 3986 section
      5.2.4), nor ``me``, ``import`` or ``export``, which are paths below ``/accounts``;
    - is not a UUID in any spelling that Python reads, because an account is identified by its id or
      by its username;
    - does not start with ``kysk_``, so that nobody takes a username for an API key, or
      mistakes a key pasted into the wrong field for an account.

    Which code points are assigned depends on the Unicode version of the running Python, so a name
    in a brand-new script may be refused by an older one.

    Raises:
        errors.Invalid: for the field ``username``, with the rule that it breaks.
    """
    if len(username) > _MAX_RAW_LENGTH:
        raise _too_long()
    form = _precis(username)
    if len(form) > MAX_LENGTH:
        raise _too_long()
    if not _FORBIDDEN.isdisjoint(form):
        character = next(each for each in form if each in _FORBIDDEN)
        raise _invalid(f"must not contain {character}")
    if form in _RESERVED:
        raise _invalid("is reserved")
    if form.startswith(api_key_format.PREFIX):
        raise _invalid(f"must not start with {api_key_format.PREFIX}, as API keys do")
    if _is_uuid(form):
        raise _invalid("must not have the form of a UUID, because accounts have UUIDs as ids")
    return form


def lookup_form(username: str) -> str | None:
    """Return the normal form of a username at login.

    ``None`` means that no account can have this name. No input raises.
    """
    try:
        return normalise(username)
    except errors.Invalid:
        return None


def is_same(username: str, normal: str) -> bool:
    """Return whether a username, in any spelling, has this normal form."""
    # The fast case: nearly all clients send the normal form.
    return username == normal or lookup_form(username) == normal


def _precis(username: str) -> str:
    # The fast case: visible ASCII, which the profile allows and maps to lower case.
    if username.isascii() and username.isprintable() and " " not in username and username:
        return username.lower()
    problem = None
    try:
        # NFC before the profile's own, so that composed and decomposed spellings are one account
        # by construction, and not because no pair is known whose letter case maps differently.
        return _PROFILE.enforce(unicodedata.normalize("NFC", username))
    except UnicodeEncodeError as error:
        problem = _explain(error)
    # Outside the handler: the error holds the whole input, which may be a mistyped password.
    raise _invalid(problem)


def _explain(error: UnicodeEncodeError) -> str:
    kind = error.reason.rpartition("/")[2]
    if kind == "empty":
        return "must have at least 1 character"
    if kind in _REASONS:
        return _REASONS[kind]
    character = error.object[error.start]
    name = unicodedata.name(character, "")
    return f"must not contain {f'U+{ord(character):04X} {name}'.rstrip()} (RFC 8264 section 4.2)"


def _is_uuid(form: str) -> bool:
    if len(form) < _SHORTEST_UUID:
        return False
    try:
        uuid.UUID(form)
    except ValueError:
        return False
    return True


def _too_long() -> errors.Invalid:
    return _invalid(f"must have at most {MAX_LENGTH} characters")


def _invalid(message: str) -> errors.Invalid:
    return errors.Invalid.field("username", message)
