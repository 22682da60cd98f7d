"""The parameters of queries other than lists."""

from typing import Any

from flask import request
from marshmallow import ValidationError

from keyosk.errors import Invalid
from keyosk.web.fields import Whole
from keyosk.web.schemas import StrictSchema


def load(shape: type[StrictSchema]) -> dict[str, Any]:
    """Return the parameters of the query, as the shape has them. Raises ``Invalid``."""
    query_fields = shape().fields
    parsed: dict[str, Any] = {}
    for name, values in request.args.lists():
        if name not in query_fields or len(values) > 1:
            raise Invalid.field(name[:200], "is not a parameter here, or is given twice")
        value: Any = values[0]
        if isinstance(query_fields[name], Whole) and value.isascii() and value.isdecimal():
            value = int(value[:20])
        try:
            parsed[name] = query_fields[name].deserialize(value)
        except ValidationError as error:
            raise Invalid.field(name, str(error.messages[0]).rstrip(".")) from None
    return parsed
