"""The schemas of JSON bodies. The layer below checks the meaning of values.

``...Schema`` is an object in responses, ``...New`` the body of POST, ``...Patch`` that of PATCH, in
which ``null`` resets a field (RFC 7396). ``/openapi.json`` is built from them: docstrings and the
metadata of fields are its descriptions. ``allow_none`` and ``validate`` describe responses there,
too, although responses are not validated.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, get_args

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, pre_load, validate

from keyosk.model import AuditAction, CredentialKind, Grant, Kind
from keyosk.times import rfc3339
from keyosk.web.fields import Flag, Object, Text, Time, Whole, described

_KINDS = validate.OneOf([kind.value for kind in Kind])
_CREDENTIALS = validate.OneOf([kind.value for kind in CredentialKind])
NAMES = validate.Length(max=1000)
#: The example of a schema; ``None`` builds it from the examples of its fields.
Example = Mapping[str, Any] | None

#: Examples that schemas share.
ACCOUNT_ID: Final = "019a9f1b-2d3c-7aa4-8a53-0d6b7f2c9e41"
API_KEY_ID: Final = "019a9f1c-0b1a-7d20-b1f0-5c1f5f8e2d37"
REQUEST_ID: Final = "019a9f1c-6f0e-7c3b-9d52-3f4f6f1f7a10"
PAST: Final = "2026-01-31T12:00:00Z"
FUTURE: Final = "2099-12-31T23:59:59Z"

#: Fields that several schemas share.
ID: Final = described("A UUIDv7.", ACCOUNT_ID)
CREATED: Final = described("When it was created.", PAST)
UPDATED: Final = described("When it was last changed.", PAST)
EFFECTIVE_AT: Final = described(
    "Present only if the change removed rights: from this time on, no service accepts a token "
    "issued before it, even if the service never polls revocations."
)

#: What marshmallow says of a value that is no object, and of an unknown field.
_NO_OBJECT: Final = "Invalid input type."
_UNKNOWN: Final = "Unknown field."
_MOST_SUGGESTED: Final = 3
_LONGEST_NAME: Final = 40

#: Present only in the response to a change that removed rights (``endpoint``).
EFFECTIVE = frozenset({"effective_at_latest"})


class StrictSchema(Schema):
    """The base of all schemas: unknown fields are refused."""

    #: The example in ``/openapi.json``, if not every field should be in it.
    example: ClassVar[Example] = None

    class Meta:
        unknown = RAISE

    def handle_error(self, error: ValidationError, *_: Any, many: bool, **__: Any) -> None:
        """Say what may be meant, in place of marshmallow's words."""
        names = [field.data_key or name for name, field in self.load_fields.items()]
        found = error.messages
        for messages in found.values() if many and isinstance(found, dict) else (found,):
            if isinstance(messages, dict):
                _explain(messages, names)

    def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
        """Return the value of a field, without trying an object as a dictionary first."""
        if "." in attr or isinstance(obj, dict):
            return super().get_attribute(obj, attr, default)
        return getattr(obj, attr, default)


def _explain(messages: dict[Any, Any], names: Sequence[str]) -> None:
    if messages.get("_schema") == [_NO_OBJECT]:
        messages["_schema"] = ["must be an object"]
    unknown = [name for name, found in messages.items() if found == [_UNKNOWN]]
    # SECURITY: of a few only, because a body has room for thousands.
    for name in unknown[:_MOST_SUGGESTED]:
        near = difflib.get_close_matches(str(name)[:_LONGEST_NAME].lower(), names, n=1, cutoff=0.7)
        if near:
            messages[name] = [f"Unknown field; did you mean {near[0]}?"]


class ResponseSchema(StrictSchema):
    """The base for responses: every field is present, except the ``optional_fields``."""

    optional_fields: ClassVar[frozenset[str]] = frozenset()

    class Meta:
        unknown = EXCLUDE

    def body_of(self, item: Any) -> dict[str, Any]:
        """Return an object as the body of a response."""
        body: dict[str, Any] = self.dump(item)
        return body


class NamedSchema(StrictSchema):
    """An object with a ``name``; the bare name may replace the object."""

    @pre_load
    def bare_name(self, data: Any, **_: Any) -> Any:
        """Take ``"todo:read"`` for ``{"name": "todo:read"}``."""
        return {"name": data} if isinstance(data, str) else data


# --- Roles ----------------------------------------------------------------------------------------

_ROLE_NAME: Final = described("The name of the role, unique among roles.", "editor")
_ROLE_DESCRIPTION: Final = described("What the role is for.", "May edit the list.")
_ROLE_SCOPES: Final = described("The names of the scopes that the role contains.", ["todo:read"])


class RolePatch(StrictSchema):
    """A merge patch of a role."""

    example: ClassVar[Example] = {"description": None, "scopes": ["todo:read", "todo:write"]}

    name = Text(allow_none=True, metadata=_ROLE_NAME)
    description = Text(allow_none=True, metadata=_ROLE_DESCRIPTION)
    scopes = fields.List(Text(), allow_none=True, validate=NAMES, metadata=_ROLE_SCOPES)


class RoleNew(StrictSchema):
    """A role to create."""

    name = Text(required=True, metadata=_ROLE_NAME)
    description = Text(metadata=_ROLE_DESCRIPTION)
    scopes = fields.List(Text(), validate=NAMES, metadata=_ROLE_SCOPES)


class RoleSchema(ResponseSchema):
    """A role."""

    optional_fields = EFFECTIVE

    id = Text(metadata=ID)
    name = Text(metadata=_ROLE_NAME)
    description = Text(metadata=_ROLE_DESCRIPTION)
    scopes = fields.List(Text(), metadata=_ROLE_SCOPES)
    created_at = Time(metadata=CREATED)
    updated_at = Time(metadata=UPDATED)
    effective_at_latest = Time(metadata=EFFECTIVE_AT)


# --- Grants ---------------------------------------------------------------------------------------

_GRANT: Final = {"name": "todo:write", "with": "password", "until": FUTURE}
_GRANTED_SCOPES: Final = described(
    "The granted scopes: bare names, or objects where a grant has a condition.",
    ["todo:read", _GRANT],
)
_GRANTED_ROLES: Final = described(
    "The granted roles: bare names, or objects where a grant has a condition.", ["editor"]
)


class GrantSchema(NamedSchema):
    """A grant of one scope or role; the bare name stands for a grant without conditions."""

    example: ClassVar[Example] = _GRANT

    name = Text(required=True, metadata=described("The name of the scope or role."))
    with_ = Text(
        data_key="with",
        allow_none=True,
        load_default=None,
        validate=_CREDENTIALS,
        metadata=described("The grant applies only to logins with this kind of credential."),
    )
    until = Time(
        allow_none=True,
        load_default=None,
        metadata=described("The grant applies only before this time."),
    )


class GrantsSchema(StrictSchema):
    """The grants that an account is to have."""

    scopes = fields.List(
        fields.Nested(GrantSchema), load_default=list, validate=NAMES, metadata=_GRANTED_SCOPES
    )
    roles = fields.List(
        fields.Nested(GrantSchema), load_default=list, validate=NAMES, metadata=_GRANTED_ROLES
    )


class GrantsShownSchema(ResponseSchema):
    """The grants of an account."""

    optional_fields = EFFECTIVE

    scopes = fields.List(fields.Nested(GrantSchema), metadata=_GRANTED_SCOPES)
    roles = fields.List(fields.Nested(GrantSchema), metadata=_GRANTED_ROLES)
    effective_at_latest = Time(metadata=EFFECTIVE_AT)


class GrantNames(StrictSchema):
    """Grants to remove, by name."""

    scopes = fields.List(
        Text(),
        load_default=list,
        validate=NAMES,
        metadata=described("The names of the scopes.", []),
    )
    roles = fields.List(
        Text(),
        load_default=list,
        validate=NAMES,
        metadata=described("The names of the roles.", ["editor"]),
    )


class GrantsPatch(StrictSchema):
    """Grants to add and to remove."""

    example: ClassVar[Example] = {"add": {"scopes": ["todo:read"]}, "remove": {"roles": ["editor"]}}

    add = fields.Nested(GrantsSchema, metadata=described("The grants to add."))
    remove = fields.Nested(GrantNames, metadata=described("The grants to remove."))


# --- Accounts -------------------------------------------------------------------------------------

_USERNAME: Final = described("The username, unique in any spelling.", "alice")
_KIND: Final = described("Whether the account is a `person` or a `machine`.", "person")
_DISPLAY_NAME: Final = described("A name for people to read.", "Alice")
_ACCOUNT_ENABLED: Final = described("Whether the account can log in.", True)
_ACCOUNT_CLAIMS: Final = described(
    "Values by claim name; a token contains those that its services ask for.",
    {"department": "sales"},
)
_METADATA: Final = described(
    "Any object; only callers with `keyosk:accounts:read` or `keyosk:accounts:write` see it.",
    {"ticket": 17},
)
_EXPIRES_AT: Final = described("When it stops working; null for never.", None)
PASSWORD: Final = "seventeen green umbrellas"  # noqa: S105  # an example


class AccountNew(StrictSchema):
    """An account to create."""

    username = Text(required=True, metadata=_USERNAME)
    kind = Text(validate=_KINDS, metadata=_KIND)
    display_name = Text(metadata=_DISPLAY_NAME)
    enabled = Flag(metadata=_ACCOUNT_ENABLED)
    claims = Object(metadata=_ACCOUNT_CLAIMS)
    metadata = Object(metadata=_METADATA)
    expires_at = Time(allow_none=True, metadata=_EXPIRES_AT)
    password = Text(metadata=described("The password; without it, the account has none.", PASSWORD))
    grants = fields.Nested(GrantsSchema, metadata=described("The grants of the account."))


class AccountPatch(StrictSchema):
    """A merge patch of an account."""

    example: ClassVar[Example] = {"display_name": "Alice A.", "enabled": False, "expires_at": None}

    username = Text(allow_none=True, metadata=_USERNAME)
    kind = Text(allow_none=True, validate=_KINDS, metadata=_KIND)
    display_name = Text(allow_none=True, metadata=_DISPLAY_NAME)
    enabled = Flag(allow_none=True, metadata=_ACCOUNT_ENABLED)
    claims = Object(allow_none=True, metadata=_ACCOUNT_CLAIMS)
    metadata = Object(allow_none=True, metadata=_METADATA)
    expires_at = Time(allow_none=True, metadata=_EXPIRES_AT)


class AccountSchema(ResponseSchema):
    """An account."""

    # The metadata never leaves the admin API.
    optional_fields = EFFECTIVE | {"metadata"}

    id = Text(metadata=ID)
    username = Text(metadata=_USERNAME)
    kind = Text(validate=_KINDS, metadata=_KIND)
    display_name = Text(metadata=_DISPLAY_NAME)
    enabled = Flag(metadata=_ACCOUNT_ENABLED)
    claims = Object(metadata=_ACCOUNT_CLAIMS)
    metadata = Object(metadata=_METADATA)
    expires_at = Time(allow_none=True, metadata=_EXPIRES_AT)
    has_password = Flag(metadata=described("Whether the account has a password.", True))
    last_login_at = Time(
        allow_none=True,
        metadata=described("When the account last logged in; null if it never did.", None),
    )
    created_at = Time(metadata=CREATED)
    updated_at = Time(metadata=UPDATED)
    effective_at_latest = Time(metadata=EFFECTIVE_AT)


class PasswordProof(StrictSchema):
    """The account's own password, unless the request logs in with it by HTTP Basic."""

    current_password = Text(
        metadata=described(
            "The caller's current password. Required if the account is the caller's own and the "
            "request is authenticated by a token.",
            PASSWORD,
        )
    )


class PasswordChange(PasswordProof):
    """A new password."""

    password = Text(
        required=True, metadata=described("The new password.", "nineteen copper teaspoons")
    )


# --- Audit ----------------------------------------------------------------------------------------


class AuditSchema(ResponseSchema):
    """A row of the audit log."""

    sequence = Whole(metadata=described("The place of the row in the hash chain.", 4711))
    time = Time(metadata=described("When it happened.", PAST))
    actor = Text(
        allow_none=True,
        metadata=described(
            "The id of the account that did it; null for a command and for a failed login.",
            ACCOUNT_ID,
        ),
    )
    actor_name = Text(metadata=described("The username of that account at the time.", "admin"))
    credential = Text(
        allow_none=True,
        metadata=described("`password`, or the id of the API key that was used.", "password"),
    )
    address = Text(
        allow_none=True, metadata=described("The IP address of the client.", "192.0.2.7")
    )
    request_id = Text(
        allow_none=True,
        metadata=described("The `X-Request-Id` of the response.", REQUEST_ID),
    )
    action = Text(
        metadata=described(
            "What was done: " + ", ".join(f"`{name}`" for name in get_args(AuditAction)) + ".",
            "account.change",
        )
    )
    target = Text(
        allow_none=True,
        metadata=described("What it was done to.", f"account/{ACCOUNT_ID}"),
    )
    before = Object(
        allow_none=True,
        metadata=described(
            "The fields that changed, as they were before.",
            {"display_name": "Alice", "enabled": True},
        ),
    )
    after = Object(
        allow_none=True,
        metadata=described(
            "The fields that changed, as they are now.",
            {"display_name": "Alice A.", "enabled": False},
        ),
    )
    outcome = Text(metadata=described("`done` or `refused`.", "done"))
    via = Text(
        allow_none=True,
        metadata=described("`console` for what was done there; null for all else.", None),
    )
    hash = Text(
        metadata=described(
            "The SHA-256 hash over this row and the hash of the row before it.",
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        )
    )


def example_of(shape: type[StrictSchema]) -> dict[str, Any]:
    """Return the example of a schema: its own, or that of its fields."""
    if shape.example is not None:
        return dict(shape.example)
    example = {}
    for name, field in shape().fields.items():
        nested = field.inner if isinstance(field, fields.List) else field
        if "example" in field.metadata:
            example[field.data_key or name] = field.metadata["example"]
        elif isinstance(nested, fields.Nested):
            assert isinstance(nested.schema, StrictSchema)
            inner = example_of(type(nested.schema))
            example[field.data_key or name] = inner if nested is field else [inner]
    return example


def grants_of(shape: dict[str, Any]) -> list[Grant]:
    """Return the grants that a loaded ``GrantsSchema`` lists."""
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
    """Return the scopes and roles that a loaded ``GrantNames`` names."""
    return [
        *(Grant(scope=name) for name in shape["scopes"]),
        *(Grant(role=name) for name in shape["roles"]),
    ]


def shape_of_grants(grants: Sequence[Grant]) -> dict[str, Any]:
    """Return grants as the API writes them: bare names where there is no condition."""
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
