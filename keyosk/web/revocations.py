"""/auth/revocations: what services that verify offline must not accept any more."""

import hashlib
import json
from typing import Any, Final

from flask import Response, request

from keyosk.documents import REVOCATIONS
from keyosk.errors import Invalid
from keyosk.model import Revocation
from keyosk.revocations import Published
from keyosk.web import negotiation
from keyosk.web.answers import json_answer
from keyosk.web.endpoint import Endpoint
from keyosk.web.operations import operation
from keyosk.web.standard_schemas import RevocationsQuery, RevocationsShape

#: What tells the signed form from a token.
TYPE: Final = "revocations+jwt"
_JWT: Final = "application/jwt"
_EXAMPLE: Final = "eyJhbGciOiJFUzI1NiIsInR5cCI6InJldm9jYXRpb25zK2p3dCJ9.e30.c2lnbmF0dXJl\n"
#: Seconds for which the signed form may be passed on.
_FRESH: Final = 300


class RevocationsResource(Endpoint):
    """The revocations in force, small enough to be polled."""

    @operation(
        query=RevocationsQuery,
        gives=RevocationsShape,
        texts={_JWT: _EXAMPLE},
        tagged=True,
        raises=(Invalid,),
    )
    def get(self) -> Response:
        """All of them, or those above ``since``; as JSON, or as a signed JWT."""
        body = _body(self.installation.revocations.published(_since()))
        tag = hashlib.sha256(json.dumps(body).encode()).hexdigest()[:32]
        if negotiation.prefers(_JWT):
            now = int(self.installation.clock())
            claims = {"iat": now, "exp": now + _FRESH, **body}
            text = self.installation.documents.sign(claims, typ=TYPE, path=REVOCATIONS)
            response = Response(f"{text}\n", mimetype=_JWT)
            response.set_etag(tag, weak=True)  # each signature is another one
        else:
            response = json_answer(body)
            response.set_etag(tag)
        response.headers["Vary"] = "Accept"
        response.headers["Cache-Control"] = "no-cache"
        return response


def _since() -> int:
    for name in request.args:
        if name != "since":
            raise Invalid.field(name[:200], "is no parameter here")
    given = request.args.getlist("since")
    if not given:
        return 0
    if len(given) > 1 or not (given[0].isascii() and given[0].isdecimal() and len(given[0]) < 19):
        raise Invalid.field("since", "must be a sequence number as the document has it")
    return int(given[0])


def _body(published: Published) -> dict[str, Any]:
    return {
        "sequence": published.sequence,
        "since": published.since,
        "entries": [_entry(each) for each in published.revocations],
    }


def _entry(revocation: Revocation) -> dict[str, Any]:
    entry: dict[str, Any] = {revocation.claim.value: revocation.value}
    if revocation.issued_before is not None:
        entry["issued_before"] = revocation.issued_before
    return {**entry, "expires": revocation.expires}
