"""JSON Lines: reads accounts, and writes results and accounts, line by line.

For HTTP and for the commands: nothing here needs a request. A line is UTF-8 and ends with LF
or CR LF; blank lines are skipped and counted.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Final, Protocol

from marshmallow import ValidationError
from werkzeug.exceptions import BadRequest

from keyosk.bulk.records import Line, Result, Tally
from keyosk.errors import Fault
from keyosk.model import Account, Grant, Kind
from keyosk.times import rfc3339
from keyosk.web import bodies
from keyosk.web.fields import Text, described
from keyosk.web.schemas import AccountNew, Example, grants_of, shape_of_grants

#: The media types of JSON Lines; the first is what responses have.
TYPES: Final = ("application/jsonl", "application/x-ndjson", "application/ndjson")
#: Bytes of the longest line, without its end.
LONGEST: Final = 64 * 1024
_PIECE: Final = 64 * 1024
_BOM: Final = b"\xef\xbb\xbf"

_NO_OBJECT: Final = 'must be one JSON object in UTF-8, such as {"username": "alice"}'
#: Fields that exports have and imports ignore, so that an export can be imported.
_READ_ONLY: Final = frozenset({"id", "has_password", "last_login_at", "created_at", "updated_at"})
#: Fields of which the schema checks only the JSON type and ``_is_text``.
_SIMPLE: Final[Mapping[str, type]] = {
    "username": str,
    "kind": str,
    "display_name": str,
    "enabled": bool,
    "claims": dict,
    "metadata": dict,
    "password": str,
    "password_hash": str,
}
_GRANTS: Final = frozenset({"scopes", "roles"})
_NONE: Final[list[Any]] = []
#: The most names in a list of grants that needs no schema.
_MOST_SIMPLE_GRANTS: Final = 50
_KINDS: Final = frozenset(kind.value for kind in Kind)


class Readable(Protocol):
    """A source of bytes; ``read`` returns none at the end."""

    def read(self, size: int, /) -> bytes: ...


class AccountLine(AccountNew):
    """An account to import. Fields that only responses have are ignored."""

    example: ClassVar[Example] = {
        "username": "bob",
        "kind": "person",
        "display_name": "Bob",
        # Of "correct horse battery staple".
        "password_hash": "$2b$12$2Lz.DlCFOKoB3pxADYJFZu21BsRIZCUyPzTmPLxdpTtUCDwhffOd6",
        "grants": {"scopes": ["todo:read"], "roles": []},
    }

    password_hash = Text(
        allow_none=True,
        metadata=described(
            "The hash of the password in the format of PHC, crypt, LDAP, Django, Werkzeug, Dovecot "
            "or Spring; null for no password."
        ),
    )


_SCHEMA: Final = AccountLine()
_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def read(source: Readable, *, on_piece: Callable[[int], object] | None = None) -> Iterator[Line]:
    """Yield the lines of a source. Raises what its ``read`` raises.

    Args:
        source: The source.
        on_piece: Called with the number of bytes after each piece was read.
    """
    for number, text in _split(source, on_piece or (lambda _: None)):
        if text is None:
            fault = Fault("line", f"must have at most {LONGEST} bytes")
            yield Line(number=number, size=0, faults=(fault,))
        elif text.strip():
            yield parse(number, text)


def parse(number: int, text: bytes) -> Line:
    """Parse one line; its ``faults`` list what is wrong with it."""
    size = len(text)
    try:
        document = bodies.parse(text)
    except BadRequest:
        document = None
    if not isinstance(document, dict):
        # SECURITY: nothing of the line itself, which may contain a password.
        fault = Fault("line", _NO_OBJECT)
        return Line(number=number, size=size, faults=(fault,))
    for name in _READ_ONLY & document.keys():
        del document[name]
    simple = _parse_simple(document)
    if simple is not None:
        fields, simple_grants = simple
        return Line(number=number, size=size, fields=fields, grants=simple_grants)
    try:
        loaded = _SCHEMA.load(document)
    except ValidationError as error:
        faults = tuple(bodies.faults_of(error.messages_dict))
        return Line(number=number, size=size, faults=faults)
    if loaded.get("password_hash", "") is None:
        del loaded["password_hash"]
    grants = loaded.pop("grants", None)
    return Line(
        number=number,
        size=size,
        fields=loaded,
        grants=None if grants is None else tuple(grants_of(grants)),
    )


def result_line(result: Result) -> str:
    """Return a result as a line of the response."""
    if not result.faults and not result.warnings:  # nearly all; this takes a tenth of the time
        id_member = "" if result.account_id is None else f',"id":"{result.account_id}"'
        return f'{{"line":{result.line},"status":"{result.status}"{id_member}}}\n'
    shape: dict[str, Any] = {"line": result.line, "status": result.status}
    if result.account_id is not None:
        shape["id"] = result.account_id
    for name, faults in (("errors", result.faults), ("warnings", result.warnings)):
        if faults:
            shape[name] = [{"field": fault.field, "message": fault.message} for fault in faults]
    return json_line(shape)


def summary_line(tally: Tally, *, dry_run: bool, complete: bool, detail: str | None = None) -> str:
    """Return the last line of a response; ``detail``: why it is not complete.

    It has ``effective_at``, because the header of other changes was sent before it was known.
    """
    counts = {str(status): count for status, count in tally.counts.items()}
    summary: dict[str, Any] = {"lines": tally.lines, **counts}
    summary |= {"dry_run": dry_run, "complete": complete}
    if tally.effective_at is not None:
        summary["effective_at_latest"] = rfc3339(tally.effective_at)
    return json_line({"summary": summary} | ({} if detail is None else {"detail": detail}))


def account_line(account: Account, grants: Sequence[Grant]) -> str:
    """Return an account as a line of an export: the representation of GET, with its grants."""
    return json_line(
        {
            "id": account.id,
            "username": account.username,
            "kind": account.kind,
            "display_name": account.display_name,
            "enabled": account.enabled,
            "claims": account.claims,
            "metadata": account.metadata,
            "expires_at": _time(account.expires_at),
            "has_password": account.has_password,
            "last_login_at": _time(account.last_login_at),
            "created_at": _time(account.created_at),
            "updated_at": _time(account.updated_at),
            "grants": shape_of_grants(grants),
        }
    )


def json_line(shape: Mapping[str, Any]) -> str:
    """Return an object as one line of JSON in valid Unicode."""
    text = _ENCODE(shape) + "\n"
    return text if text.isascii() else text.encode(errors="replace").decode()


def _time(moment: int | None) -> str | None:
    return None if moment is None else rfc3339(moment)


def _parse_simple(
    document: Mapping[str, Any],
) -> tuple[dict[str, Any], tuple[Grant, ...] | None] | None:
    """Return the fields and grants of a simple line, without the schema; ``None`` for other lines.

    Ten times as fast as the schema, which would take a third of the time of an import. A test
    compares the two.
    """
    fields = {}
    grants = None
    for name, value in document.items():
        kind = _SIMPLE.get(name)
        if kind is not None:
            if type(value) is not kind or (kind is str and not _is_text(value)):
                return None
        elif name == "grants" and type(value) is dict and value.keys() <= _GRANTS:
            grants = _parse_simple_grants(value.get("scopes", _NONE), value.get("roles", _NONE))
            if grants is None:
                return None
            continue
        elif name != "expires_at" or value is not None:
            return None
        fields[name] = value
    if "username" not in fields or fields.get("kind", "person") not in _KINDS:
        return None
    return fields, grants


def _parse_simple_grants(scopes: Any, roles: Any) -> tuple[Grant, ...] | None:
    if type(scopes) is not list or type(roles) is not list:
        return None
    if len(scopes) > _MOST_SIMPLE_GRANTS or len(roles) > _MOST_SIMPLE_GRANTS:
        return None
    try:
        return _grants(tuple(scopes), tuple(roles))
    except TypeError:  # a value that is not text and not hashable
        return None


@lru_cache(maxsize=64)
def _grants(scopes: tuple[Any, ...], roles: tuple[Any, ...]) -> tuple[Grant, ...] | None:
    """Return grants without conditions, given their names, if these are names.

    Cached, because the lines of an import share few lists; the same object lets validation be
    cached.
    """
    if not all(type(name) is str and _is_text(name) for name in (*scopes, *roles)):
        return None
    return *(Grant(scope=name) for name in scopes), *(Grant(role=name) for name in roles)


def _is_text(value: Any) -> bool:
    return value.isprintable() or not any(
        character == "\0" or "\ud800" <= character <= "\udfff" for character in value
    )


def _split(
    source: Readable, on_piece: Callable[[int], object]
) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines with their numbers from 1; ``None`` for a line that is too long."""
    number = 0
    buffer = b""
    is_too_long = False
    while piece := source.read(_PIECE):
        on_piece(len(piece))
        if number == 0 and not buffer:
            piece = piece.removeprefix(_BOM)
        first, *others = piece.split(b"\n")
        buffer += first if not is_too_long else b""
        for next_line in others:
            number += 1
            is_too_long = is_too_long or len(buffer) > LONGEST
            yield number, None if is_too_long else buffer
            buffer, is_too_long = next_line, False
        if len(buffer) > LONGEST:
            buffer, is_too_long = b"", True
    if buffer or is_too_long:
        yield number + 1, None if is_too_long or len(buffer) > LONGEST else buffer
