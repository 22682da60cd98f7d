"""Revocations, which services that verify tokens offline poll."""

import gzip
import hashlib
from functools import cached_property
from typing import Any, Final

from flask import Response, request

from keyosk.errors import Invalid
from keyosk.model import REVOCATIONS_PATH, Revocation
from keyosk.revocation_list import Published
from keyosk.web import negotiation
from keyosk.web.endpoint import Endpoint
from keyosk.web.operations import operation
from keyosk.web.responses import json_response
from keyosk.web.standard_schemas import RevocationsQuery, RevocationsSchema

#: The ``typ`` that distinguishes the signed form from a token.
TYPE: Final = "revocations+jwt"
_JWT: Final = "application/jwt"
_EXAMPLE: Final = "eyJhbGciOiJFUzI1NiIsInR5cCI6InJldm9jYXRpb25zK2p3dCJ9.e30.c2lnbmF0dXJl\n"
#: The lifetime of the signed form in seconds.
_FRESH: Final = 300
#: The seconds of a turn, in which a process serves the same signed form.
_RESIGNED: Final = 60
_MOST_FORMS: Final = 100


class RevocationsResource(Endpoint):
    """The revocations in force, small enough to be polled."""

    @operation(
        query=RevocationsQuery,
        response=RevocationsSchema,
        media_types={_JWT: _EXAMPLE},
        has_etag=True,
        raises=(Invalid,),
    )
    def get(self) -> Response:
        """Return all revocations, or those above ``since``; as JSON or as a signed JWT."""
        form = self._form(_since())
        zipped = request.accept_encodings["gzip"] > 0
        if negotiation.prefers(_JWT):
            turn, text = self._signed(form)
            response = Response(text, mimetype=_JWT)
            # Weak, as each process signs its own. With the turn: else a reader whose copy has
            # expired would be told by 304 that nothing is new.
            response.set_etag(f"{form.tag}-{turn}", weak=True)
        elif zipped:
            response = Response(form.zipped, mimetype="application/json")
            response.headers["Content-Encoding"] = "gzip"
            response.set_etag(f"{form.tag}-gzip")
        else:
            response = Response(form.text, mimetype="application/json")
            response.set_etag(form.tag)
        response.headers["Vary"] = "Accept, Accept-Encoding"
        response.headers["Cache-Control"] = "no-cache"
        return response

    def _form(self, since: int) -> "_Form":
        """Return the document above a number, cached until the next change."""
        revocation_list = self.installation.revocation_list
        rendered = revocation_list.snapshot().rendered
        form = rendered.get(since)
        if not isinstance(form, _Form):
            form = _Form(_body(revocation_list.published(since)))
            # A limit, because anyone can request any number.
            if len(rendered) < _MOST_FORMS:
                rendered[since] = form
        return form

    def _signed(self, form: "_Form") -> tuple[int, str]:
        """Return the turn of the present signature, the same in all processes, and the JWT."""
        now = int(self.installation.clock())
        turn = now // _RESIGNED
        if form.signed is None or form.signed[0] != turn:
            claims = {"iat": now, "exp": now + _FRESH, **form.body}
            text = self.installation.documents.sign(claims, typ=TYPE, path=REVOCATIONS_PATH)
            form.signed = (turn, f"{text}\n")
        return form.signed


class _Form:
    """The document above one number, in the forms in which it is sent."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.text = json_response(body).get_data()
        self.tag = hashlib.sha256(self.text).hexdigest()[:32]
        self.signed: tuple[int, str] | None = None

    @cached_property
    def zipped(self) -> bytes:
        """The text, compressed."""
        return gzip.compress(self.text, compresslevel=5, mtime=0)


def _since() -> int:
    for name in request.args:
        if name != "since":
            raise Invalid.field(name[:200], "is not a parameter here")
    values = request.args.getlist("since")
    if not values:
        return 0
    if len(values) > 1 or not (
        values[0].isascii() and values[0].isdecimal() and len(values[0]) < 19
    ):
        raise Invalid.field("since", "must be a sequence number from a revocations document")
    return int(values[0])


def _body(published: Published) -> dict[str, Any]:
    return {
        "sequence": published.sequence,
        "since": published.since,
        "entries": [_entry(entry) for entry in published.revocations],
    }


def _entry(revocation: Revocation) -> dict[str, Any]:
    entry: dict[str, Any] = {revocation.claim.value: revocation.value}
    if revocation.issued_before is not None:
        entry["issued_before"] = revocation.issued_before
    return {**entry, "expires": revocation.expires}
