"""JSON Schema for the shapes and the parameters of lists: what apispec cannot know of ours."""

from collections.abc import Mapping
from typing import Any, Final

from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from marshmallow import Schema, fields

from keyosk.model import CredentialKind
from keyosk.web import paging
from keyosk.web.declared import Elsewhere
from keyosk.web.fields import Accepts, Flag, LoneTime, Object, Text, Time, Whole
from keyosk.web.openapi.descriptions import CHOICES, FIELDS, FILTERS
from keyosk.web.openapi.examples import EXAMPLES
from keyosk.web.paging import ListOptions
from keyosk.web.schemas import NamedSchema, ResponseSchema

_TEXT: Final = {"type": "string"}
_FLAG: Final = {"type": "boolean"}
_TIME: Final = {"type": "string", "format": "date-time"}
_LOGINS: Final = {"type": "string", "enum": [kind.value for kind in CredentialKind]}
_KINDS: Final[Mapping[type[fields.Field[Any]], Mapping[str, Any]]] = {
    Text: _TEXT,
    Flag: _FLAG,
    Whole: {"type": "integer"},
    Object: {"type": "object"},
    Elsewhere: _TEXT,
    Time: _TIME,
    LoneTime: _TIME,
    fields.Raw: {},
    Accepts: {"type": "string", "enum": [*_LOGINS["enum"], "both"]},
}
_FILTERS: Final[Mapping[Any, Mapping[str, Any]]] = {
    paging.text: {**_TEXT, "maxLength": paging.LONGEST},
    paging.flag: _FLAG,
    paging.moment: _TIME,
}


def name_of(shape: type[Schema] | Schema) -> str:
    """The name of a shape among the components."""
    made_by = shape if isinstance(shape, type) else type(shape)
    return made_by.__name__.removesuffix("Schema")


def list_parameters(lists: ListOptions) -> list[dict[str, Any]]:
    """The parameters that are a list's own: its order and its filters."""
    orders = [order for sort in lists.sorts for order in (sort, f"-{sort}")]
    schemas = {
        "sort": {**_TEXT, "enum": orders, "default": lists.sorts[0]},
        **{name: dict(_FILTERS[parse]) for name, parse in lists.filters.items()},
    }
    return [
        {"name": name, "in": "query", "description": FILTERS[name], "schema": schema}
        for name, schema in schemas.items()
    ]


class _Converter(OpenAPIConverter):
    """apispec's, for the fields of ``web/fields`` and the kinds of shapes of ``web/schemas``."""

    def init_attribute_functions(self) -> None:
        super().init_attribute_functions()  # type: ignore[no-untyped-call]  # it has no types
        self.attribute_functions.append(self.own_words)

    def field2type_and_format(self, field: fields.Field[Any], **more: Any) -> dict[str, Any]:
        """The JSON type of a field. Raises ``LookupError`` for a kind that has none here."""
        if isinstance(field, fields.List | fields.Nested):
            known: dict[str, Any] = super().field2type_and_format(field, **more)
            return known
        return dict(_KINDS[type(field)])

    def own_words(self, field: fields.Field[Any], ret: dict[str, Any]) -> dict[str, Any]:
        """What only this project knows of a field."""
        name = field.data_key or field.name or ""
        known: dict[str, Any] = {}
        if not isinstance(field.parent, Schema):  # an item of a list, which has the words
            return known
        shape = name_of(field.parent)
        words = FIELDS | FILTERS if shape.endswith("Query") else FIELDS
        described = words.get(f"{shape}.{name}", words.get(name))
        if described is not None:
            known["description"] = described
        if name in CHOICES:
            known["enum"] = [*CHOICES[name], *([None] if field.allow_none else [])]
        if isinstance(field, Accepts) and not isinstance(field.parent, ResponseSchema):
            # A request may also list the logins.
            one = {"type": ret.pop("type"), "enum": [*ret.pop("enum"), None]}
            known["anyOf"] = [one, {"type": "array", "items": _LOGINS, "minItems": 1}]
        return known

    def schema2jsonschema(self, schema: Any) -> dict[str, Any]:
        """A shape with its description, its example, and what is always there."""
        described: dict[str, Any] = super().schema2jsonschema(  # type: ignore[no-untyped-call]
            schema
        )
        shape = type(schema)
        if issubclass(shape, ResponseSchema):
            described["required"] = [
                name for name in described["properties"] if name not in shape.optional_fields
            ]
        if issubclass(shape, NamedSchema):
            described = {"anyOf": [{"type": "string"}, described]}
        described["description"] = _sentence(shape)
        described["examples"] = [EXAMPLES[name_of(shape)]]
        return described


class SchemasPlugin(MarshmallowPlugin):
    """The plugin that turns shapes into components where a document refers to them."""

    Converter = _Converter

    def __init__(self) -> None:
        super().__init__(schema_name_resolver=name_of)

    def reference(self, shape: type[Schema]) -> dict[str, Any]:
        """A reference to a shape, which is put among the components by that."""
        assert self.converter is not None
        found: dict[str, Any] = self.converter.resolve_nested_schema(shape)
        return found

    def page(self, shape: type[Schema]) -> dict[str, Any]:
        """A reference to a page of a list of shapes."""
        assert self.spec is not None
        name = f"{name_of(shape)}Page"
        components = self.spec.components
        if name not in components.schemas:
            following = {
                "type": ["string", "null"],
                "description": "The `cursor` of the next page; null on the last one.",
            }
            components.schema(
                name,
                {
                    "type": "object",
                    "description": f"A page of a list of {name_of(shape)}.",
                    "properties": {
                        "items": {"type": "array", "items": self.reference(shape)},
                        "next": following,
                    },
                    "required": ["items", "next"],
                    "examples": [{"items": [EXAMPLES[name_of(shape)]], "next": None}],
                },
            )
        reference: dict[str, Any] = components.get_ref("schema", name)
        return reference


def _sentence(shape: type[Schema]) -> str:
    return (shape.__doc__ or "").replace("``", "`")
