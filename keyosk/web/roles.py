"""Roles, which are named sets of scopes."""

from typing import Final, cast

from flask import Response, g

from keyosk.errors import Conflict
from keyosk.model import RoleChanges
from keyosk.web import paging
from keyosk.web.endpoint import Endpoint
from keyosk.web.operations import operation
from keyosk.web.preconditions import wanted_versions
from keyosk.web.responses import is_forced, nothing, object_response
from keyosk.web.schemas import RoleNew, RolePatch, RoleSchema

LISTS = paging.ListOptions(
    ("created_at", "name"), {"scope": paging.text("Only roles with this scope.", "todo:read")}
)

# One instance, because each new one copies all fields (150 us).
_body: Final = RoleSchema().body_of


class RolesResource(Endpoint):
    """All roles."""

    @operation(response=RoleSchema, lists=LISTS)
    def get(self) -> Response:
        """List roles."""
        roles = self.installation.roles
        return self.page(roles.page, _body, roles.count)

    @operation(body=RoleNew, response=RoleSchema, status=201, has_etag=True, raises=(Conflict,))
    def post(self) -> Response:
        """Create a role."""
        role = self.installation.roles.create(g.caller, **self.load())
        return object_response(_body(role), role.version, 201, location=f"/roles/{role.name}")


class RoleResource(Endpoint):
    """One role."""

    @operation(response=RoleSchema, has_etag=True)
    def get(self, role: str) -> Response:
        """Return the role."""
        stored = self.installation.roles.get(role)
        return object_response(_body(stored), stored.version)

    @operation(body=RolePatch, response=RoleSchema, has_etag=True, raises=(Conflict,))
    def patch(self, role: str) -> Response:
        """Change the fields in the merge patch."""
        patch = cast(RoleChanges, self.load())
        changed = self.installation.roles.change(g.caller, role, patch, version=wanted_versions())
        return object_response(_body(changed), changed.version, effective_at=changed.effective_at)

    @operation(has_etag=True, needs_force=True)
    def delete(self, role: str) -> Response:
        """Delete the role; requires ``force`` if accounts hold it."""
        return nothing(
            self.installation.roles.remove(
                g.caller, role, force=is_forced(), version=wanted_versions()
            )
        )
