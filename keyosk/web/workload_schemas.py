"""The shapes of issuers that log workloads in, and of their rules."""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from marshmallow import ValidationError, fields, validate

from keyosk.model import FOREIGN_ALGORITHMS, ClaimValue, ClaimValues
from keyosk.web.fields import Flag, Object, Text, Time, Whole, described
from keyosk.web.schemas import (
    CREATED,
    EFFECTIVE,
    EFFECTIVE_AT,
    FUTURE,
    ID,
    NAMES,
    UPDATED,
    Example,
    ResponseSchema,
    StrictSchema,
)
from keyosk.workloads.presets import PRESETS


class Claims(fields.Field[ClaimValues]):
    """What claims must equal: by name, a value or a list of values."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise ValidationError("Must be an object.")
        if any(item is None for item in value.values()) and not self.metadata.get("patch"):
            raise ValidationError("A claim must have a value.")
        return {name: _values(item) for name, item in value.items()}

    def _serialize(self, value: Any, *_: Any, **__: Any) -> Any:
        return {name: item[0] if len(item) == 1 else list(item) for name, item in value.items()}


def _values(value: Any) -> tuple[ClaimValue, ...] | None:
    if value is None:
        return None
    listed = value if isinstance(value, list) else [value]
    if not listed or any(type(each) not in (str, int, bool) for each in listed):
        raise ValidationError("Must be text, a whole number, true or false, or a list of these.")
    if any(type(each) is int and not -(2**53) < each < 2**53 for each in listed):
        raise ValidationError("Must be numbers that JSON represents exactly (RFC 8259).")
    return tuple(dict.fromkeys(listed)) if _are_texts(listed) else tuple(listed)


def _are_texts(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


# --- Issuers --------------------------------------------------------------------------------------

_ISSUER_NAME: Final = described("The name of the issuer, unique among issuers.", "github")
_ISSUER_DESCRIPTION: Final = described("What its tokens are for.", "Our CI jobs.")
_PRESET: Final = described(
    "The platform whose values fill in what the request does not say.",
    "github",
    enum=(*PRESETS,),
)
_SHOWN_PRESET: Final = described(
    "The preset that the issuer was created with; null for none.", "github"
)
_ISS: Final = described(
    "The `iss` of its tokens, exactly. Its keys are found through its OpenID Connect metadata, "
    "unless `jwks_uri` or `keys` say otherwise.",
    "https://token.actions.githubusercontent.com",
)
_FOREIGN_AUDIENCE: Final = described(
    "What `aud` of its tokens must contain; by default the issuer URL of this Keyosk.",
    "https://keyosk.example.com",
)
_JWKS_URI: Final = described("Where its keys are; null to find them in its metadata.", None)
_KEYS: Final = described(
    "Its keys as a JWK set, for an issuer that Keyosk cannot reach; null to fetch them.", None
)
_ALGORITHMS: Final = described(
    "The signatures that are accepted: some of " + ", ".join(FOREIGN_ALGORITHMS) + ".", ["RS256"]
)
_MAX_LIFETIME: Final = described(
    "The longest lifetime of its tokens that is accepted, in seconds.", 3600
)
_REQUIRED_CLAIMS: Final = described("The claims that every rule must name.", ["repository_id"])
_PREFIX_CLAIMS: Final = described(
    "The claims in which a rule may end a value with `*`.",
    ["ref", "job_workflow_ref", "workflow_ref", "sub"],
)
_ALLOW_PRIVATE: Final = described(
    "Whether its keys may be fetched from a private or loopback address.", False
)
_ISSUER_ENABLED: Final = described("Whether its tokens log in.", True)


class IssuerPatch(StrictSchema):
    """A merge patch of an issuer."""

    example: ClassVar[Example] = {"max_lifetime": 600, "description": None}

    name = Text(allow_none=True, metadata=_ISSUER_NAME)
    description = Text(allow_none=True, metadata=_ISSUER_DESCRIPTION)
    issuer = Text(allow_none=True, metadata=_ISS)
    audience = Text(allow_none=True, metadata=_FOREIGN_AUDIENCE)
    jwks_uri = Text(allow_none=True, metadata=_JWKS_URI)
    keys = Object(allow_none=True, metadata=_KEYS)
    algorithms = fields.List(Text(), allow_none=True, validate=NAMES, metadata=_ALGORITHMS)
    max_lifetime = Whole(allow_none=True, metadata=_MAX_LIFETIME)
    required_claims = fields.List(
        Text(), allow_none=True, validate=NAMES, metadata=_REQUIRED_CLAIMS
    )
    prefix_claims = fields.List(Text(), allow_none=True, validate=NAMES, metadata=_PREFIX_CLAIMS)
    allow_private = Flag(allow_none=True, metadata=_ALLOW_PRIVATE)
    enabled = Flag(allow_none=True, metadata=_ISSUER_ENABLED)


class IssuerNew(IssuerPatch):
    """An issuer to trust."""

    example: ClassVar[Example] = {
        "name": "github",
        "preset": "github",
        "description": "Our CI jobs.",
    }

    name = Text(required=True, metadata=_ISSUER_NAME)
    preset = Text(validate=validate.OneOf(list(PRESETS)), metadata=_PRESET)


class IssuerSchema(ResponseSchema):
    """An issuer whose tokens log workloads in."""

    optional_fields = EFFECTIVE

    id = Text(metadata=ID)
    name = Text(metadata=_ISSUER_NAME)
    description = Text(metadata=_ISSUER_DESCRIPTION)
    preset = Text(allow_none=True, metadata=_SHOWN_PRESET)
    issuer = Text(metadata=_ISS)
    audience = Text(metadata=_FOREIGN_AUDIENCE)
    jwks_uri = Text(allow_none=True, metadata=_JWKS_URI)
    keys = Object(allow_none=True, metadata=_KEYS)
    algorithms = fields.List(Text(), metadata=_ALGORITHMS)
    max_lifetime = Whole(metadata=_MAX_LIFETIME)
    required_claims = fields.List(Text(), metadata=_REQUIRED_CLAIMS)
    prefix_claims = fields.List(Text(), metadata=_PREFIX_CLAIMS)
    allow_private = Flag(metadata=_ALLOW_PRIVATE)
    enabled = Flag(metadata=_ISSUER_ENABLED)
    created_at = Time(metadata=CREATED)
    updated_at = Time(metadata=UPDATED)
    effective_at_latest = Time(metadata=EFFECTIVE_AT)


# --- Rules ----------------------------------------------------------------------------------------

_RULE_NAME: Final = described("The name of the rule, unique among those of its issuer.", "deploy")
_RULE_DESCRIPTION: Final = described("What the rule is for.", "Deploys of the main branch.")
_RULE_CLAIMS: Final = described(
    "What the token must say: by claim, a value, or a list of accepted values. A nested "
    "claim is named by a JSON Pointer, such as `/kubernetes.io/namespace`.",
    {"repository_id": "842913401", "ref": "refs/heads/main"},
)
_RULE_ACCOUNT: Final = described(
    "The username of the machine account that such tokens log in as.", "deployer"
)
_RULE_SCOPES: Final = described(
    "The scopes that the logins are limited to; null for all that the account holds.", None
)
_ONCE: Final = described("Whether each token logs in once only, by its `jti`.", True)
_RULE_ENABLED: Final = described("Whether tokens log in by the rule.", True)
_RULE_EXPIRES: Final = described("When the rule ends; null for never.", FUTURE)
_RULE_USED: Final = described("When a token last logged in by the rule; null for never.", None)


class RulePatch(StrictSchema):
    """A merge patch of a rule; the claims merge by member."""

    example: ClassVar[Example] = {"claims": {"ref": ["refs/heads/main"]}, "description": None}

    name = Text(allow_none=True, metadata=_RULE_NAME)
    description = Text(allow_none=True, metadata=_RULE_DESCRIPTION)
    claims = Claims(allow_none=True, metadata={**_RULE_CLAIMS, "patch": True})
    account = Text(allow_none=True, metadata=_RULE_ACCOUNT)
    scopes = fields.List(Text(), allow_none=True, validate=NAMES, metadata=_RULE_SCOPES)
    once = Flag(allow_none=True, metadata=_ONCE)
    enabled = Flag(allow_none=True, metadata=_RULE_ENABLED)
    expires_at = Time(allow_none=True, metadata=_RULE_EXPIRES)


class RuleNew(RulePatch):
    """A rule to create."""

    example: ClassVar[Example] = None

    name = Text(required=True, metadata=_RULE_NAME)
    claims = Claims(required=True, metadata=_RULE_CLAIMS)
    account = Text(required=True, metadata=_RULE_ACCOUNT)


class RuleSchema(ResponseSchema):
    """A rule of an issuer: which of its tokens log in as which account."""

    optional_fields = EFFECTIVE

    id = Text(metadata=ID)
    name = Text(metadata=_RULE_NAME)
    description = Text(metadata=_RULE_DESCRIPTION)
    claims = Claims(metadata=_RULE_CLAIMS)
    account = Text(metadata=_RULE_ACCOUNT)
    scopes = fields.List(Text(), allow_none=True, metadata=_RULE_SCOPES)
    once = Flag(metadata=_ONCE)
    enabled = Flag(metadata=_RULE_ENABLED)
    expires_at = Time(allow_none=True, metadata=_RULE_EXPIRES)
    last_used_at = Time(allow_none=True, metadata=_RULE_USED)
    created_at = Time(metadata=CREATED)
    updated_at = Time(metadata=UPDATED)
    effective_at_latest = Time(metadata=EFFECTIVE_AT)


# --- Trying a token -------------------------------------------------------------------------------


class AssertionTest(StrictSchema):
    """A token to try, without logging in."""

    assertion = Text(
        required=True,
        metadata=described("The token of the issuer.", "eyJhbGciOiJSUzI1NiJ9.e30.c2lnbmF0dXJl"),
    )


class MissSchema(ResponseSchema):
    """A claim in which a token is not as a rule says."""

    claim = Text(metadata=described("The claim.", "ref"))
    wanted = fields.List(
        fields.Raw(), metadata=described("What the rule says.", ["refs/heads/main"])
    )
    found = fields.Raw(
        allow_none=True, metadata=described("What the token says; null for nothing.", "refs/x")
    )


class RuleMatchSchema(ResponseSchema):
    """What a rule says of a token."""

    name = Text(metadata=_RULE_NAME)
    account = Text(metadata=_RULE_ACCOUNT)
    enabled = Flag(metadata=_RULE_ENABLED)
    fits = Flag(metadata=described("Whether the token is as the rule says.", False))
    misses = fields.List(
        fields.Nested(MissSchema),
        metadata=described(
            "The claims in which it is not.",
            [{"claim": "ref", "wanted": ["refs/heads/main"], "found": "refs/x"}],
        ),
    )


class AssertionReportSchema(ResponseSchema):
    """What would happen if a workload showed a token."""

    example: ClassVar[Example] = {
        "verified": False,
        "error_description": "The token lacks one of iss, sub, aud and exp, or has it or another "
        "claim in a form that is not accepted.",
        "account": None,
        "rule": None,
        "claims": {},
        "rules": [],
    }

    verified = Flag(
        metadata=described("Whether issuer, signature and times of the token are right.", True)
    )
    error_description = Text(
        allow_none=True, metadata=described("Why it would be refused; null if it would not.", None)
    )
    account = Text(
        allow_none=True,
        metadata=described("The account that it would log in as; null for none.", "deployer"),
    )
    rule = Text(allow_none=True, metadata=described("The rule that it would log in by.", "deploy"))
    claims = Object(metadata=described("What the token says, if it is verified.", {}))
    rules = fields.List(
        fields.Nested(RuleMatchSchema),
        metadata=described("What each rule of the issuer says of it.", []),
    )
