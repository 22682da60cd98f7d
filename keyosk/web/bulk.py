"""Bulk import and export of accounts as JSON Lines."""

from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from typing import Final

from flask import Response, g, request
from marshmallow import ValidationError, validate

from keyosk.bulk.records import OnConflict, Tally
from keyosk.errors import Invalid, KeyoskError
from keyosk.model import Caller
from keyosk.web import access, bodies, lines, paging
from keyosk.web.accounts import LISTS
from keyosk.web.endpoint import Endpoint
from keyosk.web.fields import Flag, QueryFlag, Text, described
from keyosk.web.operations import operation
from keyosk.web.responses import streamed
from keyosk.web.schemas import AccountSchema, GrantsSchema, StrictSchema, example_of

_WRITE: Final = "keyosk:accounts:write"
#: Bytes of results that are sent while the body is still being read.
_EARLY: Final = 1024 * 1024
#: Bytes of results that wait in memory; the rest waits in a file.
_IN_MEMORY: Final = 256 * 1024
_PIECE: Final = 64 * 1024

_RESULTS: Final = (
    '{"line":1,"status":"created","id":"019a9f1b-2d3c-7aa4-8a53-0d6b7f2c9e41"}\n'
    '{"line":2,"status":"invalid","errors":[{"field":"username","message":"is reserved"}]}\n'
    '{"summary":{"lines":2,"created":1,"exists":0,"updated":0,"unchanged":0,"invalid":1,'
    '"refused":0,"conflict":0,"dry_run":false,"complete":true}}\n'
)
_ACCOUNTS: Final = lines.json_line(
    {
        **example_of(AccountSchema),
        "grants": example_of(GrantsSchema),
    }
)


class ImportQuery(StrictSchema):
    """How to import."""

    dry_run = Flag(metadata=described("Check every line and change nothing.", False))
    on_conflict = Text(
        validate=validate.OneOf([word.value for word in OnConflict]),
        metadata=described(
            "For a username that exists: `skip` the line (the default), `update` the account, or "
            "`fail` the line.",
            "skip",
        ),
    )


#: An export takes the filters of the list of accounts.
ExportQuery: Final = StrictSchema.from_dict(dict(LISTS.filters), name="ExportQuery")


class ImportResource(Endpoint):
    """Bulk import of accounts."""

    # Imports are idempotent by username; and the body is streamed, so it has no fingerprint.
    repeatable = False

    @operation(
        body=lines.AccountLine,
        body_types=lines.TYPES,
        query=ImportQuery,
        media_types={lines.TYPES[0]: _RESULTS},
    )
    def post(self) -> Response:
        """Import accounts, one a line (JSON Lines).

        The response has one result a line and a summary at the end. If the summary is missing, or
        its ``complete`` is false, the import ended early: repeat it. Accounts that exist are
        skipped (``on_conflict=skip``), changed except for their passwords (``update``), or count
        as failed (``fail``). ``dry_run=true`` checks every line and changes nothing.
        """
        if request.mimetype not in lines.TYPES:
            raise bodies.WrongMediaType(
                "The body must be JSON Lines, one account a line (Content-Type: "
                f"{' or '.join(lines.TYPES)})."
            )
        bodies.check_coding()
        dry_run, on_conflict = _options()
        results = self._import(g.caller, dry_run=dry_run, on_conflict=on_conflict)
        leave = self.installation.bulk.exclusive()
        try:
            # An error in the first batch (no database, no body) has a response of its own.
            first = next(results)
        except BaseException:
            leave()
            raise
        return streamed(_spooled(first, results), lines.TYPES[0], leave)

    def _import(self, caller: Caller, *, dry_run: bool, on_conflict: OnConflict) -> Iterator[bytes]:
        """Yield the response, batch by batch; an error after the first batch is its last line."""
        tally = Tally()
        batches = self.installation.bulk.import_accounts(
            lambda: access.recheck(self.installation, caller, _WRITE),
            lines.read(request.stream),
            on_conflict=on_conflict,
            dry_run=dry_run,
        )
        complete, detail = True, None
        try:
            for results in batches:
                tally.add(results)
                yield "".join(map(lines.result_line, results)).encode()
        except KeyoskError as error:
            if not tally.lines:
                raise
            complete, detail = False, error.detail
        yield lines.summary_line(tally, dry_run=dry_run, complete=complete, detail=detail).encode()


class ExportResource(Endpoint):
    """Bulk export of accounts."""

    @operation(query=ExportQuery, media_types={lines.TYPES[0]: _ACCOUNTS}, raises=(Invalid,))
    def get(self) -> Response:
        """Export accounts with their grants, one a line (JSON Lines).

        The filters are those of the list of accounts. An export can be imported again; it has no
        passwords and no API keys.
        """
        pages = self.installation.bulk.export_accounts(paging.filters(LISTS))
        if request.method == "HEAD":  # it reads nothing, and does not block an export
            return Response(iter(()), mimetype=lines.TYPES[0])
        body = (
            "".join(lines.account_line(account, grants) for account, grants in page).encode()
            for page in pages
        )
        return streamed(body, lines.TYPES[0], self.installation.bulk.exclusive())


def _options() -> tuple[bool, OnConflict]:
    """Return ``dry_run`` and ``on_conflict`` of the query. Raises ``Invalid`` for others."""
    options: dict[str, str] = {}
    for name, values in request.args.lists():
        if name not in ImportQuery().fields or len(values) > 1:
            raise Invalid.field(name[:200], "is not a parameter here, or is given twice")
        options[name] = values[0]
    try:
        dry_run = QueryFlag().deserialize(options.get("dry_run", "false"))
    except ValidationError:
        raise Invalid.field("dry_run", "must be true or false") from None
    try:
        return dry_run, OnConflict(options.get("on_conflict", OnConflict.SKIP))
    except ValueError:
        words = ", ".join(OnConflict)
        raise Invalid.field("on_conflict", f"must be one of {words}") from None


def _spooled(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    """Return a response that is generated while the request is still being read.

    Many clients (and some proxies) send the whole body before they read any of the response.
    Without a buffer, client and server would wait for each other. So results beyond a limit wait in
    a file until the body has been read.
    """
    yield first
    early = len(first)
    with SpooledTemporaryFile(_IN_MEMORY) as aside:
        for piece in rest:
            if early < _EARLY:
                early += len(piece)
                yield piece
            else:
                aside.write(piece)
        aside.seek(0)
        while piece := aside.read(_PIECE):
            yield piece
