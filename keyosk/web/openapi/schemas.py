"""JSON Schema for the shapes and parameters: what apispec cannot know of our fields."""

from collections.abc import Mapping
from typing import Any, Final

from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from marshmallow import Schema, fields

from keyosk.model import CredentialKind
from keyosk.web.fields import Accepts, Date, Flag, LoneTime, Object, QueryFlag, Text, Time, Whole
from keyosk.web.manifest_schemas import (
    RefusedField,
)
from keyosk.web.schemas import NamedSchema, ResponseSchema, StrictSchema, example_of
from keyosk.web.workload_schemas import Claims

_TEXT: Final = {"type": "string"}
_FLAG: Final = {"type": "boolean"}
_TIME: Final = {"type": "string", "format": "date-time"}
_LOGINS: Final = {"type": "string", "enum": [kind.value for kind in CredentialKind]}
_CLAIM_VALUE: Final = {"type": ["string", "integer", "boolean", "null"]}
_CLAIM_VALUES: Final = {"type": "array", "items": {"type": ["string", "integer", "boolean"]}}
_KINDS: Final[Mapping[type[fields.Field[Any]], Mapping[str, Any]]] = {
    Text: _TEXT,
    Flag: _FLAG,
    QueryFlag: _FLAG,
    Whole: {"type": "integer"},
    Object: {"type": "object"},
    RefusedField: _TEXT,
    Time: _TIME,
    LoneTime: _TIME,
    Date: {"type": "string", "format": "date"},
    Claims: {"type": "object", "additionalProperties": {"anyOf": [_CLAIM_VALUE, _CLAIM_VALUES]}},
    fields.Raw: {},
    Accepts: {"type": "string", "enum": [*_LOGINS["enum"], "both", "any"]},
}
_EXAMPLE: Final = "example"


def name_of(shape: type[Schema] | Schema) -> str:
    """Return the name of a shape among the components."""
    made_by = shape if isinstance(shape, type) else type(shape)
    return made_by.__name__.removesuffix("Schema")


class _Converter(OpenAPIConverter):
    """apispec's, for the fields of ``web/fields`` and the kinds of shapes of ``web/schemas``."""

    def init_attribute_functions(self) -> None:
        super().init_attribute_functions()  # type: ignore[no-untyped-call]  # it has no types
        self.attribute_functions.append(self.accepts2properties)

    def field2type_and_format(self, field: fields.Field[Any], **more: Any) -> dict[str, Any]:
        """Return the JSON type of a field. Raises ``LookupError`` for a kind that has none here."""
        if isinstance(field, fields.List | fields.Nested):
            properties: dict[str, Any] = super().field2type_and_format(field, **more)
            return properties
        return dict(_KINDS[type(field)])

    def metadata2properties(self, field: fields.Field[Any], **more: Any) -> dict[str, Any]:
        """Return the description of a field. Raises ``LookupError`` if it has none."""
        properties: dict[str, Any] = super().metadata2properties(field, **more)
        properties.pop(_EXAMPLE, None)  # it is part of the example of the whole shape
        if isinstance(field.parent, fields.List):  # an item, which the list describes
            return properties
        return {**properties, "description": field.metadata["description"]}

    def accepts2properties(self, field: fields.Field[Any], ret: dict[str, Any]) -> dict[str, Any]:
        """The logins that a service accepts may also be a list."""
        if not isinstance(field, Accepts):
            return {}
        words = ret.pop("enum")
        if not isinstance(field.parent, ResponseSchema):
            words = [*words, None]
        one = {"type": ret.pop("type"), "enum": words}
        return {"anyOf": [one, {"type": "array", "items": _LOGINS, "minItems": 1}]}

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
        described["examples"] = [example_of(shape)]
        return described


class SchemasPlugin(MarshmallowPlugin):
    """The plugin that turns shapes into components where a document refers to them."""

    Converter = _Converter

    def __init__(self) -> None:
        super().__init__(schema_name_resolver=name_of)

    def reference(self, shape: type[Schema]) -> dict[str, Any]:
        """A reference to a shape, which is put among the components by that."""
        assert self.converter is not None
        ref: dict[str, Any] = self.converter.resolve_nested_schema(shape)
        return ref

    def parameters(self, query_fields: Mapping[str, fields.Field[Any]]) -> list[dict[str, Any]]:
        """Parameters of a query, by name. Raises ``LookupError`` for one without description."""
        assert self.converter is not None
        parameters = []
        for name, field in query_fields.items():
            schema = self.converter.field2property(field)
            description = schema.pop("description")
            if _EXAMPLE in field.metadata:
                # Swagger UI sends the `example` of a parameter, and the first of its `examples`.
                schema["examples"] = [field.metadata[_EXAMPLE]]
            parameters.append(
                {"name": name, "in": "query", "description": description, "schema": schema}
            )
        return parameters

    def page(self, shape: type[StrictSchema]) -> dict[str, Any]:
        """A reference to a page of a list of shapes."""
        assert self.spec is not None
        name = f"{name_of(shape)}Page"
        components = self.spec.components
        if name not in components.schemas:
            following = {
                "type": ["string", "null"],
                "description": "The `cursor` of the next page; null on the last page.",
            }
            components.schema(
                name,
                {
                    "type": "object",
                    "description": f"A page of a list of {name_of(shape)}.",
                    "properties": {
                        "items": {
                            "type": "array",
                            "description": "The objects of the page.",
                            "items": self.reference(shape),
                        },
                        "next": following,
                    },
                    "required": ["items", "next"],
                    "examples": [{"items": [example_of(shape)], "next": None}],
                },
            )
        reference: dict[str, Any] = components.get_ref("schema", name)
        return reference


def _sentence(shape: type[Schema]) -> str:
    return (shape.__doc__ or "").replace("``", "`")
