"""The parameters of OAuth requests: in a form, in JSON, or in a query (RFC 6749 appendix B)."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

from flask import Request

from keyosk import whitespace
from keyosk.errors import InvalidRequest
from keyosk.web import bodies
from keyosk.web.current import current_request

FORM: Final = "application/x-www-form-urlencoded"
#: White space around these is not part of them.
_TOKENS: Final = frozenset(
    {"token", "refresh_token", "subject_token", "assertion", "client_assertion"}
)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
Parameters = Mapping[str, Sequence[str]]

#: Secrets, which must not be in a query, because URLs are logged.
_SECRETS: Final = frozenset(
    {
        *("client_secret", "password", "client_assertion", "assertion", "api_key"),
        *("refresh_token", "subject_token", "actor_token", "access_token", "token"),
    }
)


def query(request: Request) -> dict[str, list[str]]:
    """Return the parameters of the query. Raises ``InvalidRequest`` if one of them is a secret."""
    if not request.query_string:
        return {}
    values = dict(request.args.lists())
    if values.keys() & _SECRETS:
        raise InvalidRequest("A credential must never be in a URL: change this credential now.")
    return _storable(values)


def body() -> dict[str, list[str]]:
    """Return the parameters of query and body together. Raises ``InvalidRequest``; 400."""
    request = current_request()
    values = query(request)
    environ = request.environ
    has_body = environ.get("CONTENT_LENGTH") not in (None, "", "0")
    if not has_body and "HTTP_TRANSFER_ENCODING" not in environ:
        return values
    bodies.check_coding()
    if request.mimetype == FORM:
        pairs = _form(request.get_data())
    elif request.mimetype == "application/json":
        pairs = _members(bodies.parse(request.get_data()))
    elif request.get_data():
        raise InvalidRequest(f"The body must be {FORM} or application/json.")
    else:
        return values
    for name, items in _storable(pairs).items():
        values[name] = [*values.get(name, []), *items]
    return values


def singles(values: Parameters, *, repeatable: Collection[str] = ()) -> dict[str, str]:
    """Return the parameters with a value, each of which must occur once (RFC 6749 section 3.2).

    One without a value counts as absent (section 3.1). Raises ``InvalidRequest``.
    """
    for name, items in values.items():
        if len(items) > 1 and name not in repeatable:
            raise InvalidRequest(f"The parameter {name[:100]} is given twice.")
    single = {name: items[0] for name, items in values.items() if name not in repeatable and items}
    # ``format=token`` ends with a line end, which clients send back.
    single |= {name: whitespace.trim(single[name]) for name in _TOKENS & single.keys()}
    return {name: value for name, value in single.items() if value}


def _form(data: bytes) -> dict[str, list[str]]:
    """Return the fields of a form, which is UTF-8 (RFC 6749 appendix B). Raises ``InvalidRequest``.

    SECURITY: Flask replaces other bytes by U+FFFD, so that different secrets would become equal.
    """
    try:
        pairs = parse_qsl(data.decode(), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        pairs = None
    if pairs is None:  # outside the handler: the error holds the whole body
        raise InvalidRequest("The body is not UTF-8.")
    values: dict[str, list[str]] = {}
    for name, text in pairs:
        values.setdefault(name, []).append(text)
    return values


def _storable(values: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the parameters. Raises ``InvalidRequest`` for NUL and lone surrogates."""
    # Loops, not a generator for each parameter: most tokens pass here.
    for name, items in values.items():
        for text in (name, *items):
            if "\0" in text or not (text.isascii() or _SURROGATE.search(text) is None):
                raise InvalidRequest(
                    "A parameter must be Unicode text without the character U+0000."
                )
    return values


def _members(document: Any) -> dict[str, list[str]]:
    if not isinstance(document, dict):
        raise InvalidRequest("The JSON body must be an object.")
    members = {}
    for name, value in document.items():
        items = value if isinstance(value, list) else [value]
        if name == "lifetime":
            items = [str(item) if type(item) is int else item for item in items]
        if not all(isinstance(item, str) for item in items):
            raise InvalidRequest("A parameter must be a string or a list of strings.")
        members[name] = items
    return members
