"""The public keys, for everybody and without the database."""

import re
from typing import Final

from flask import Response

from keyosk.errors import NotFound, Unavailable
from keyosk.web.answers import public_answer
from keyosk.web.endpoint import Endpoint
from keyosk.web.operations import operation
from keyosk.web.standard_schemas import JwkSetShape

_PEM: Final = "application/x-pem-file"
_EXAMPLE: Final = "-----BEGIN PUBLIC KEY-----\nMFkw...\n-----END PUBLIC KEY-----\n"
_THUMBPRINT: Final = re.compile(r"[A-Za-z0-9_-]{43}")


class JwksResource(Endpoint):
    """The JWK set (RFC 7517 section 5)."""

    @operation(gives=JwkSetShape, tagged=True, raises=(Unavailable,))
    def get(self) -> Response:
        """The published keys, the signing one first; 304 where the caller has them."""
        response = Response(
            self.installation.signing_keys.current.document, mimetype="application/json"
        )
        return public_answer(response)


class PemResource(Endpoint):
    """One published key for verifiers that read files."""

    @operation(texts={_PEM: _EXAMPLE}, tagged=True, raises=(Unavailable,))
    def get(self, kid: str) -> Response:
        """The key as PEM (RFC 7468)."""
        if not _THUMBPRINT.fullmatch(kid):
            raise NotFound("There is no such published key.")
        pem = self.installation.signing_keys.public_pem(kid)
        return public_answer(Response(pem, mimetype=_PEM))
