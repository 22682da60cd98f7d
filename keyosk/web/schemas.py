"""The shapes of bodies, in and out. What a value means is checked on the floor below.

``...Schema`` is what an object looks like in responses; ``...New`` what POST takes, ``...Patch``
what PATCH takes, where ``null`` resets a field (RFC 7396). /openapi.json is made from them:
``allow_none`` and ``validate`` say there what an answer can hold, though no answer is checked.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from marshmallow import EXCLUDE, RAISE, Schema, fields, pre_load, validate

from keyosk.model import CredentialKind, Grant, Kind
from keyosk.web.fields import Flag, Object, Text, Time, Whole, rfc3339

_KINDS = validate.OneOf([kind.value for kind in Kind])
_CREDENTIALS = validate.OneOf([kind.value for kind in CredentialKind])
NAMES = validate.Length(max=1000)


#: What answers to a change have only where it took rights away (``endpoint``).
EFFECTIVE = frozenset({"effective_at_latest"})


class StrictSchema(Schema):
    """What all shapes share: unknown fields are refused."""

    class Meta:
        unknown = RAISE


class ResponseSchema(StrictSchema):
    """What answers show: every field is there, but for those that ``optional_fields`` names."""

    optional_fields: ClassVar[frozenset[str]] = frozenset()

    class Meta:
        unknown = EXCLUDE


class NamedSchema(StrictSchema):
    """An object that its bare name may stand for."""

    name = Text(required=True)

    @pre_load
    def bare_name(self, data: Any, **_: Any) -> Any:
        """Take ``"todo:read"`` for ``{"name": "todo:read"}``."""
        return {"name": data} if isinstance(data, str) else data


class RolePatch(StrictSchema):
    """A merge patch of a role."""

    name = Text(allow_none=True)
    description = Text(allow_none=True)
    scopes = fields.List(Text(), allow_none=True, validate=NAMES)


class RoleNew(StrictSchema):
    """A role to make."""

    name = Text(required=True)
    description = Text()
    scopes = fields.List(Text(), validate=NAMES)


class RoleSchema(ResponseSchema):
    """A role."""

    optional_fields = EFFECTIVE

    id = Text()
    name = Text()
    description = Text()
    scopes = fields.List(Text())
    created_at = Time()
    updated_at = Time()
    effective_at_latest = Time()


class GrantSchema(NamedSchema):
    """One scope or role of an account; its bare name stands for one without a condition."""

    with_ = Text(data_key="with", allow_none=True, load_default=None, validate=_CREDENTIALS)
    until = Time(allow_none=True, load_default=None)


class GrantsSchema(StrictSchema):
    """What an account was granted."""

    scopes = fields.List(fields.Nested(GrantSchema), load_default=list, validate=NAMES)
    roles = fields.List(fields.Nested(GrantSchema), load_default=list, validate=NAMES)


class GrantsShownSchema(ResponseSchema):
    """What an account was granted, as answered."""

    optional_fields = EFFECTIVE

    scopes = fields.List(fields.Nested(GrantSchema))
    roles = fields.List(fields.Nested(GrantSchema))
    effective_at_latest = Time()


class GrantNames(StrictSchema):
    """Grants to be taken away, by name."""

    scopes = fields.List(Text(), load_default=list, validate=NAMES)
    roles = fields.List(Text(), load_default=list, validate=NAMES)


class GrantsPatch(StrictSchema):
    """Grants to be added and taken away."""

    add = fields.Nested(GrantsSchema)
    remove = fields.Nested(GrantNames)


class AccountNew(StrictSchema):
    """An account to make."""

    username = Text(required=True)
    kind = Text(validate=_KINDS)
    display_name = Text()
    enabled = Flag()
    claims = Object()
    metadata = Object()
    expires_at = Time(allow_none=True)
    password = Text()
    grants = fields.Nested(GrantsSchema)


class AccountPatch(StrictSchema):
    """A merge patch of an account."""

    username = Text(allow_none=True)
    kind = Text(allow_none=True, validate=_KINDS)
    display_name = Text(allow_none=True)
    enabled = Flag(allow_none=True)
    claims = Object(allow_none=True)
    metadata = Object(allow_none=True)
    expires_at = Time(allow_none=True)


class AccountSchema(ResponseSchema):
    """An account."""

    # The metadata never leaves the admin API.
    optional_fields = EFFECTIVE | {"metadata"}

    id = Text()
    username = Text()
    kind = Text(validate=_KINDS)
    display_name = Text()
    enabled = Flag()
    claims = Object()
    metadata = Object()
    expires_at = Time(allow_none=True)
    has_password = Flag()
    last_login_at = Time(allow_none=True)
    created_at = Time()
    updated_at = Time()
    effective_at_latest = Time()


class PasswordProof(StrictSchema):
    """The password of the account itself; a login by HTTP Basic with it does as well."""

    current_password = Text()


class PasswordChange(PasswordProof):
    """A new password."""

    password = Text(required=True)


class ApiKeyNew(PasswordProof):
    """An API key to make."""

    name = Text(required=True)
    description = Text()
    scopes = fields.List(Text(), allow_none=True, validate=NAMES)
    networks = fields.List(Text(), allow_none=True, validate=NAMES)
    expires_at = Time(allow_none=True)
    enabled = Flag()


class ApiKeyPatch(PasswordProof):
    """A merge patch of an API key."""

    name = Text(allow_none=True)
    description = Text(allow_none=True)
    scopes = fields.List(Text(), allow_none=True, validate=NAMES)
    networks = fields.List(Text(), allow_none=True, validate=NAMES)
    expires_at = Time(allow_none=True)
    enabled = Flag(allow_none=True)


class ApiKeySchema(ResponseSchema):
    """An API key, without its secret."""

    optional_fields = EFFECTIVE

    id = Text()
    name = Text()
    description = Text()
    prefix = Text()
    scopes = fields.List(Text(), allow_none=True)
    networks = fields.List(Text(), allow_none=True)
    expires_at = Time(allow_none=True)
    enabled = Flag()
    last_used_at = Time(allow_none=True)
    successor = Text(allow_none=True)
    created_at = Time()
    updated_at = Time()
    effective_at_latest = Time()


class ApiKeyMade(ApiKeySchema):
    """An API key just made, with its secret, which is never shown again."""

    # A repeated answer (Idempotency-Key) has it for ten minutes only.
    optional_fields = EFFECTIVE | {"secret"}

    secret = Text()


class ApiKeyRotationSchema(PasswordProof):
    """How to rotate an API key: the seconds for which the old one goes on working."""

    overlap = Whole()


class AuditSchema(ResponseSchema):
    """A row of the audit log."""

    sequence = Whole()
    time = Time()
    actor = Text(allow_none=True)
    actor_name = Text()
    credential = Text(allow_none=True)
    address = Text(allow_none=True)
    request_id = Text(allow_none=True)
    action = Text()
    target = Text(allow_none=True)
    before = Object(allow_none=True)
    after = Object(allow_none=True)
    outcome = Text()
    hash = Text()


def grants_of(shape: dict[str, Any]) -> list[Grant]:
    """The grants that a loaded ``GrantsSchema`` lists."""
    return [
        Grant(
            scope=item["name"] if member == "scopes" else None,
            role=item["name"] if member == "roles" else None,
            credential=CredentialKind(item["with_"]) if item["with_"] else None,
            until=item["until"],
        )
        for member in ("scopes", "roles")
        for item in shape[member]
    ]


def names_of(shape: dict[str, Any]) -> list[Grant]:
    """The scopes and roles that a loaded ``GrantNames`` names."""
    return [
        *(Grant(scope=name) for name in shape["scopes"]),
        *(Grant(role=name) for name in shape["roles"]),
    ]


def shape_of_grants(grants: Sequence[Grant]) -> dict[str, Any]:
    """Grants as the API writes them: bare names where there is no condition."""
    return {
        "scopes": [_grant(grant.scope, grant) for grant in grants if grant.scope is not None],
        "roles": [_grant(grant.role, grant) for grant in grants if grant.role is not None],
    }


def _grant(name: str, grant: Grant) -> Any:
    conditions = {
        **({"with": str(grant.credential)} if grant.credential else {}),
        **({"until": rfc3339(grant.until)} if grant.until is not None else {}),
    }
    return {"name": name, **conditions} if conditions else name
