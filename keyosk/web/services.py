"""Services and their scopes."""

from typing import Any, Final, cast

from flask import Response, g

from keyosk.errors import Conflict
from keyosk.model import Service, ServiceChanges, Verification
from keyosk.web import paging
from keyosk.web.endpoint import Endpoint
from keyosk.web.operations import operation
from keyosk.web.preconditions import wanted_versions
from keyosk.web.responses import is_forced, json_response, nothing, object_response
from keyosk.web.service_schemas import (
    ScopesNew,
    ScopesSchema,
    ServiceNew,
    ServicePatch,
    ServiceSchema,
    exchanges_of,
    scopes_of,
)
from keyosk.web.verification_schemas import VerificationNew, VerificationSchema

LISTS = paging.ListOptions(
    ("created_at", "name"),
    {
        "enabled": paging.flag("Only enabled services, or only disabled ones."),
        "exchanges_for": paging.text(
            "Only services whose tokens may be exchanged for tokens for this one, by its name.",
            "billing",
        ),
    },
)

# One instance, because each new one copies all fields (150 us).
_body: Final = ServiceSchema().body_of
_VERIFICATION: Final = VerificationSchema()


class ServicesResource(Endpoint):
    """All services."""

    @operation(response=ServiceSchema, lists=LISTS)
    def get(self) -> Response:
        """List services."""
        services = self.installation.services
        return self.page(services.page, _body, services.count)

    @operation(
        body=ServiceNew, response=ServiceSchema, status=201, has_etag=True, raises=(Conflict,)
    )
    def post(self) -> Response:
        """Create a service."""
        fields = {name: value for name, value in loaded(self.load()).items() if value is not None}
        service = self.installation.services.create(g.caller, **fields)
        return object_response(
            _body(service), service.version, 201, location=f"/services/{service.id}"
        )


class ServiceResource(Endpoint):
    """One service."""

    @operation(response=ServiceSchema, has_etag=True)
    def get(self, service: str) -> Response:
        """Return the service."""
        stored = self.installation.services.get(service)
        return object_response(_body(stored), stored.version)

    @operation(
        body=ServicePatch,
        response=ServiceSchema,
        has_etag=True,
        needs_force=True,
        raises=(Conflict,),
    )
    def patch(self, service: str) -> Response:
        """Change the fields in the merge patch."""
        return self._changed(service, cast(ServiceChanges, loaded(self.load())))

    @operation(has_etag=True, needs_force=True)
    def delete(self, service: str) -> Response:
        """Delete the service, its scopes and their grants; requires ``force`` if it has grants."""
        return nothing(
            self.installation.services.remove(
                g.caller, service, force=is_forced(), version=wanted_versions()
            )
        )

    def _changed(self, service: str, patch: ServiceChanges) -> Response:
        changed = self.installation.services.change(
            g.caller, service, patch, force=is_forced(), version=wanted_versions()
        )
        return object_response(_body(changed), changed.version, effective_at=changed.effective_at)


class ScopesResource(Endpoint):
    """The scopes of a service; their entity tag is that of the service."""

    @operation(response=ScopesSchema, has_etag=True)
    def get(self, service: str) -> Response:
        """Return the scopes."""
        return _scopes_response(self.installation.services.get(service))

    @operation(
        body=ScopesNew, response=ScopesSchema, has_etag=True, needs_force=True, raises=(Conflict,)
    )
    def put(self, service: str) -> Response:
        """Replace all scopes; grants of scopes that remain are kept."""
        scopes = scopes_of(self.load()["scopes"])
        changed = self.installation.services.change(
            g.caller, service, {"scopes": scopes}, force=is_forced(), version=wanted_versions()
        )
        return _scopes_response(changed)


class VerificationResource(Endpoint):
    """What the last test of a service with bad tokens found."""

    @operation(response=VerificationSchema)
    def get(self, service: str) -> Response:
        """Return what `keyosk verify-service` found the last time; 404 if it never ran."""
        return _verification_response(self.installation.services.verification(service))

    @operation(body=VerificationNew, response=VerificationSchema)
    def put(self, service: str) -> Response:
        """Report what a test of the service found, in the place of the result before."""
        fields = self.load()
        return _verification_response(
            self.installation.services.record_verification(g.caller, service, **fields)
        )


def _verification_response(verification: Verification) -> Response:
    return json_response(_VERIFICATION.body_of(verification))


def loaded(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the loaded fields of a service, lists as the domain has them."""
    if "scopes" in fields:
        fields["scopes"] = scopes_of(fields["scopes"])
    for name in ("claims", "audiences"):
        if fields.get(name) is not None:
            fields[name] = tuple(dict.fromkeys(fields[name]))
    if fields.get("exchanges") is not None:
        fields["exchanges"] = exchanges_of(fields["exchanges"])
    return fields


def _scopes_response(service: Service) -> Response:
    return object_response(
        {"scopes": _body(service)["scopes"]}, service.version, effective_at=service.effective_at
    )
