"""The shapes of an explanation: which token a login would get, and why scopes are missing."""

from typing import Final

from marshmallow import fields, validate

from keyosk.model import CredentialKind
from keyosk.permissions.entitlements import Reason
from keyosk.web.fields import Flag, Object, Text, Time, Whole, described
from keyosk.web.schemas import ResponseSchema, StrictSchema

_CREDENTIALS: Final = validate.OneOf([kind.value for kind in CredentialKind])


class ExplainRequest(StrictSchema):
    """A token request to explain."""

    account = Text(
        metadata=described("The id or username; by default the caller's own account.", "alice")
    )
    credential = Text(
        validate=_CREDENTIALS,
        metadata=described(
            "The credential that the account would use; `password` by default.", "password"
        ),
    )
    api_key = Text(metadata=described("With the credential `api_key`: the id of the API key."))
    audience = fields.List(
        Text(),
        validate=validate.Length(max=100),
        metadata=described("As in the token request."),
    )
    scope = Text(metadata=described("As in the token request.", "billing:read"))
    lifetime = Whole(validate=validate.Range(min=1), metadata=described("As in the token request."))


class ExplainedScopeSchema(ResponseSchema):
    """A scope of the token, and why the account holds it."""

    name = Text(metadata=described("The name of the scope.", "todo:read"))
    through = Text(
        metadata=described("`grant`, or the name of the role that contains the scope.", "editor")
    )
    until = Time(
        allow_none=True, metadata=described("When the grant expires; null for never.", None)
    )


class MissingScopeSchema(ResponseSchema):
    """A scope that the token would lack, and why."""

    name = Text(metadata=described("The name of the scope.", "billing:read"))
    reason = Text(
        metadata=described(
            "Why, for programs: " + ", ".join(f"`{reason}`" for reason in Reason) + ".",
            "not_granted",
        )
    )
    message = Text(
        metadata=described("Why, for people.", "The scope is not granted to the account.")
    )


class ExplanationSchema(ResponseSchema):
    """The result that a token request would have."""

    optional_fields = frozenset(
        {"error", "error_description", "reason", "message", "claims", "size"}
    )

    granted = Flag(metadata=described("Whether a token would be issued.", False))
    error = Text(
        metadata=described("The error that the token endpoint would return.", "invalid_scope")
    )
    error_description = Text(
        metadata=described(
            "The description of that error.",
            "This login does not hold these scopes for the requested audience: billing:read",
        )
    )
    reason = Text(metadata=described("Why the login itself would be refused."))
    message = Text(metadata=described("What the reason means."))
    claims = Object(metadata=described("The claims of the token, except `jti`."))
    size = Whole(
        metadata=described("The length of the token in bytes; tokens above 6144 are refused.")
    )
    scopes = fields.List(
        fields.Nested(ExplainedScopeSchema),
        metadata=described("The scopes that the token would have.", []),
    )
    missing = fields.List(
        fields.Nested(MissingScopeSchema),
        metadata=described("The scopes that the token would lack."),
    )
