"""Declarative configuration by manifests."""

from contextlib import suppress
from typing import Final

from flask import Response, g, request
from marshmallow import ValidationError
from werkzeug.exceptions import RequestEntityTooLarge

from keyosk.apply.steps import Drafts
from keyosk.errors import InsufficientScope, Invalid, KeyoskError, RefusedByRule
from keyosk.revocations import latest
from keyosk.web.endpoint import IDEMPOTENCY_KEY, EndpointWithCleanup
from keyosk.web.fields import QueryFlag, described
from keyosk.web.manifest_schemas import (
    ManifestChangesSchema,
    ManifestSchema,
    manifest_of,
    shape_of_step,
)
from keyosk.web.operations import operation
from keyosk.web.responses import change_response
from keyosk.web.schemas import StrictSchema

#: Bytes of the largest manifest.
MAX_MANIFEST: Final = 4 * 1024 * 1024


class ApplyQuery(StrictSchema):
    """How to apply a manifest."""

    dry_run = QueryFlag(metadata=described("Return the changes and make none.", False))
    force = QueryFlag(metadata=described("Remove objects even if they are in use.", False))
    take_over = QueryFlag(
        metadata=described("Change objects of another owner's manifest, too.", False)
    )


class ApplyResource(EndpointWithCleanup):
    """Declarative configuration."""

    def prepare(self, **_: str) -> None:
        """Read the options and the body. Raises if the body is larger than any manifest."""
        # One byte more than allowed, because a body without a length is silently cut off there.
        request.max_content_length = MAX_MANIFEST + 1
        if len(request.get_data()) > MAX_MANIFEST:
            raise RequestEntityTooLarge
        self._requested = _options()
        # A dry run rolls back its transaction, in which an Idempotency-Key would store the
        # response.
        self.repeatable = not self._requested["dry_run"]
        self._drafts: Drafts | None = None
        if self.repeatable and IDEMPOTENCY_KEY in request.headers:
            # ``post`` reports the errors, unless the response is stored already.
            with suppress(KeyoskError):
                self._drafts = self.exit_stack.enter_context(
                    self.installation.manifests.draft_keys(
                        g.caller,
                        manifest_of(self.load()),
                        take_over=self._requested["take_over"],
                    )
                )

    @operation(
        body=ManifestSchema,
        response=ManifestChangesSchema,
        query=ApplyQuery,
        raises=(InsufficientScope, RefusedByRule),
    )
    def post(self) -> Response:
        """Apply a manifest of services, roles, accounts, grants, issuers and rules.

        Either all changes are made or none; what the manifest does not contain is not changed. Each
        part requires the scope of its own endpoint: ``keyosk:services:write`` for services, roles,
        issuers and rules, ``keyosk:accounts:write`` for accounts, ``keyosk:grants:write`` for
        grants. ``dry_run=true`` returns the changes and makes none. ``force=true`` also removes
        what is in use elsewhere. ``take_over=true`` also changes objects that another owner's
        manifest created, and requires ``keyosk:admin``.
        """
        manifest = manifest_of(self.load())
        manifests = self.installation.manifests
        force, take_over = self._requested["force"], self._requested["take_over"]
        if self._requested["dry_run"]:
            steps = manifests.plan(g.caller, manifest, force=force, take_over=take_over)
            effective_at = None
        else:
            steps = manifests.apply(
                g.caller, manifest, force=force, take_over=take_over, drafts=self._drafts
            )
            effective_at = latest(*(step.effective_at for step in steps))
        return change_response({"changes": [shape_of_step(step) for step in steps]}, effective_at)


def _options() -> dict[str, bool]:
    """Return the flags of the query. Raises ``Invalid`` for other parameters."""
    fields = ApplyQuery().fields
    options = dict.fromkeys(fields, False)
    for name, values in request.args.lists():
        if name not in options or len(values) > 1:
            raise Invalid.field(name[:200], "is not a parameter here, or is given twice")
        try:
            options[name] = bool(fields[name].deserialize(values[0]))
        except ValidationError:
            raise Invalid.field(name, "must be true or false") from None
    return options
