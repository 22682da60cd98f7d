"""Signing keys and their life cycle."""

from typing import Any, Final

from flask import Response, g

from keyosk.errors import Conflict
from keyosk.keys import imported_keys
from keyosk.model import SigningKey
from keyosk.web import addresses, paging
from keyosk.web.endpoint import EndpointWithCleanup
from keyosk.web.key_schemas import KeyImport, RotationRequest, SigningKeySchema
from keyosk.web.operations import operation
from keyosk.web.responses import change_response

LISTS = paging.ListOptions(("created_at",), key="kid")

# One instance, because each new one copies all fields (150 us).
_SHAPE: Final = SigningKeySchema()


class _SigningKeyEndpoint(EndpointWithCleanup):
    def respond(self, key: SigningKey, status: int = 200) -> Response:
        """Return one key as it is now."""
        response = change_response(self.shape(key), key.effective_at, status)
        if status == 201:
            response.headers["Location"] = addresses.url(f"/signing-keys/{key.kid}")
        return response

    def shape(self, key: SigningKey) -> dict[str, Any]:
        """Return the public side of a key."""
        return {
            **_SHAPE.body_of(key),
            "not_seen_by": self.installation.key_fetches.services_without(key),
        }


class SigningKeysResource(_SigningKeyEndpoint):
    """All signing keys."""

    @operation(response=SigningKeySchema, lists=LISTS)
    def get(self) -> Response:
        """List signing keys, past ones included, oldest first; without private keys."""
        rotation = self.installation.rotation
        return self.page(rotation.page, self.shape, rotation.count)


class RotateKeyResource(_SigningKeyEndpoint):
    """The rotation of signing keys."""

    def prepare(self, **_: str) -> None:
        """Generate the key."""
        self._fields = self.load()
        draft = self.installation.rotation.draft_for_rotation(self._fields.get("algorithm"))
        self._draft = self.exit_stack.enter_context(draft)

    @operation(
        body=RotationRequest,
        optional=True,
        response=SigningKeySchema,
        status=201,
        raises=(Conflict,),
    )
    def post(self) -> Response:
        """Create and publish the key that signs next."""
        rotation = self.installation.rotation
        return self.respond(rotation.rotate(g.caller, **self._fields, draft=self._draft), 201)


class ImportKeyResource(_SigningKeyEndpoint):
    """Private keys from elsewhere."""

    # SECURITY: a response that is kept would be found by the fingerprint of a private key.
    repeatable = False

    @operation(body=KeyImport, response=SigningKeySchema, status=201, raises=(Conflict,))
    def post(self) -> Response:
        """Import a private key, as PEM or JWK, that signs next."""
        fields = self.load()
        private, algorithm = imported_keys.read(fields["private_key"], fields.get("algorithm"))
        key = self.installation.rotation.import_key(g.caller, private, algorithm)
        return self.respond(key, 201)


class SigningKeyResource(_SigningKeyEndpoint):
    """One signing key."""

    @operation(response=SigningKeySchema)
    def get(self, kid: str) -> Response:
        """Return the key, without its private key."""
        return self.respond(self.installation.rotation.get(kid))

    @operation(response=SigningKeySchema, raises=(Conflict,))
    def delete(self, kid: str) -> Response:
        """Retire the key: it stops signing, and is removed when its last token has expired."""
        return self.respond(self.installation.rotation.retire(g.caller, kid))


class CompromiseResource(_SigningKeyEndpoint):
    """A signing key that somebody else may have."""

    def prepare(self, **path: str) -> None:
        """Generate the key that signs from then on, where none is published yet."""
        draft = self.installation.rotation.draft_for_compromise(path["kid"])
        self._draft = self.exit_stack.enter_context(draft)

    @operation(response=SigningKeySchema, raises=(Conflict,))
    def post(self, kid: str) -> Response:
        """Remove the key at once, revoke its tokens, and sign with the next key."""
        rotation = self.installation.rotation
        return self.respond(rotation.compromise(g.caller, kid, draft=self._draft))
