"""The shape of a manifest."""

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar, Final

from marshmallow import ValidationError, fields, validate

from keyosk.apply.manifest import Action, Manifest, ManifestEntry, Noun, Step
from keyosk.model import Kind
from keyosk.web.fields import Flag, Object, Text, Time, described
from keyosk.web.schemas import (
    EFFECTIVE,
    EFFECTIVE_AT,
    AccountNew,
    AccountPatch,
    Example,
    GrantsSchema,
    ResponseSchema,
    RoleNew,
    RolePatch,
    StrictSchema,
    grants_of,
    shape_of_grants,
)
from keyosk.web.service_schemas import ServiceNew, ServicePatch
from keyosk.web.services import loaded as service_fields
from keyosk.web.workload_schemas import IssuerNew, RuleNew, RulePatch
from keyosk.web.workloads import loaded as workload_fields

_MOST: Final = validate.Length(max=5_000)


class RefusedField(Text):
    """A secret, which a manifest must not have. ``command``: what sets it instead."""

    def __init__(self, command: str) -> None:
        super().__init__(metadata=described("Always refused: secrets do not belong in a manifest."))
        self._command = command

    def _deserialize(self, *_: Any, **__: Any) -> str:
        raise ValidationError(f"Is not allowed in this file: use keyosk {self._command}.")


class ManifestAccount(AccountNew):
    """An account of a manifest, without any secret."""

    example: ClassVar[Example] = {"username": "carol", "grants": {"roles": ["reader"]}}

    password = RefusedField("account password")
    api_keys = RefusedField("api-key create")


class ManifestGrants(GrantsSchema):
    """Grants of an account that the manifest does not own."""

    example: ClassVar[Example] = {"account": "todo-backend", "roles": ["reader"]}

    account = Text(
        required=True, metadata=described("The username of the account; its other grants stay.")
    )


class ManifestRule(RuleNew):
    """A rule of an issuer, which this manifest or another one has."""

    issuer = Text(required=True, metadata=described("The name of the issuer.", "github"))


class ManifestSchema(StrictSchema):
    """A manifest."""

    owner = Text(metadata=described("The owner of the manifest, who owns what it creates.", "ops"))
    prune = Flag(
        metadata=described(
            "Whether to delete what an earlier manifest of this owner created and this one lacks."
        )
    )
    services = fields.List(
        fields.Nested(ServiceNew),
        validate=_MOST,
        metadata=described("The services.", [{"name": "wiki", "scopes": ["wiki:read"]}]),
    )
    roles = fields.List(
        fields.Nested(RoleNew),
        validate=_MOST,
        metadata=described("The roles.", [{"name": "reader", "scopes": ["wiki:read"]}]),
    )
    accounts = fields.List(
        fields.Nested(ManifestAccount), validate=_MOST, metadata=described("The accounts.")
    )
    grants = fields.List(
        fields.Nested(ManifestGrants),
        validate=_MOST,
        metadata=described("Grants of accounts that the manifest does not own."),
    )
    issuers = fields.List(
        fields.Nested(IssuerNew),
        validate=_MOST,
        metadata=described("The platforms whose tokens log workloads in."),
    )
    rules = fields.List(
        fields.Nested(ManifestRule),
        validate=_MOST,
        metadata=described("Which of their tokens log in as which account."),
    )


class StepSchema(ResponseSchema):
    """One change of a manifest."""

    action = Text(
        validate=validate.OneOf([action.value for action in Action]),
        metadata=described("What is done.", "create"),
    )
    kind = Text(
        validate=validate.OneOf([noun.value for noun in Noun]),
        metadata=described("The kind of the object.", "role"),
    )
    name = Text(metadata=described("The name or username of the object.", "reader"))
    before = Object(metadata=described("The fields that change, as they were before.", {}))
    after = Object(
        metadata=described(
            "The fields that change, as they are afterwards.",
            {"scopes": ["wiki:read"]},
        )
    )


class ManifestChangesSchema(ResponseSchema):
    """What applying a manifest changed, or would change."""

    optional_fields = EFFECTIVE

    changes = fields.List(
        fields.Nested(StepSchema), metadata=described("The changes, in the order they are made.")
    )
    effective_at_latest = Time(metadata=EFFECTIVE_AT)


def manifest_of(loaded: Mapping[str, Any]) -> Manifest:
    """Return the manifest of a loaded ``ManifestSchema``."""
    return Manifest(
        owner=loaded.get("owner"),
        prune=loaded.get("prune", False),
        services=_entries("services", "name", map(service_fields, loaded.get("services", ()))),
        roles=_entries("roles", "name", loaded.get("roles", ())),
        accounts=_entries("accounts", "username", map(_account, loaded.get("accounts", ()))),
        grants=_entries("grants", "account", map(_grants, loaded.get("grants", ()))),
        issuers=_entries("issuers", "name", map(workload_fields, loaded.get("issuers", ()))),
        rules=_entries("rules", "name", map(_rule, loaded.get("rules", ()))),
    )


def shape_of_step(step: Step) -> dict[str, Any]:
    """Return a step of a plan with its values as the API writes them."""
    return {
        "action": str(step.action),
        "kind": str(step.noun),
        "name": step.name,
        "before": _values(step.noun, step.before),
        "after": _values(step.noun, step.after),
    }


_SHAPES: Final = {
    Noun.SERVICE: ServicePatch,
    Noun.ROLE: RolePatch,
    Noun.ACCOUNT: AccountPatch,
    Noun.ISSUER: IssuerNew,
    Noun.RULE: RulePatch,
}


def _values(noun: Noun, values: Mapping[str, Any]) -> dict[str, Any]:
    shape = _SHAPES.get(noun)
    # Not the mapping itself: a missing field such as ``keys`` would find the method.
    dumped: dict[str, Any] = {} if shape is None else shape().dump(SimpleNamespace(**values))
    if "grants" in values:
        dumped["grants"] = shape_of_grants(values["grants"])
    if "owner" in values:
        dumped["owner"] = values["owner"]
    return dumped


def _entries(
    member: str, name: str, items: Iterable[Mapping[str, Any]]
) -> tuple[ManifestEntry, ...]:
    return tuple(
        ManifestEntry(
            f"{member}.{number}",
            item[name],
            {field: value for field, value in item.items() if field != name},
        )
        for number, item in enumerate(items)
    )


def _account(item: dict[str, Any]) -> dict[str, Any]:
    if "kind" in item:
        item["kind"] = Kind(item["kind"])
    if "grants" in item:
        item["grants"] = tuple(grants_of(item["grants"]))
    return item


def _rule(item: dict[str, Any]) -> dict[str, Any]:
    issuer = item.pop("issuer")
    return {**workload_fields(item), "name": f"{issuer}/{item['name']}"}


def _grants(item: dict[str, Any]) -> dict[str, Any]:
    return {"account": item["account"], "grants": tuple(grants_of(item))}
