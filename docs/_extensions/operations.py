"""Puts what OpenAPI says of an operation below its section: who, parameters, body, responses.

A section of ``reference/api`` that is called ``METHOD /path`` says in words what a table cannot.
The rest is made from the description that ``/openapi.json`` serves, so it is never out of date.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sphinx.application import Sphinx

from keyosk.web.openapi import build
from keyosk.web.routes import ROUTES

_PAGES = "reference/api/"
_HEADING = re.compile(r"^## ([A-Z, ]+) (/\S*)$", re.MULTILINE)
_ANY_HEADING = re.compile(r"^##? ", re.MULTILINE)
#: How the description lists the codes of an error, which a page of its own explains.
_CODE = re.compile(r"^- (`\w+`): ", re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def extend(text: str, description: Mapping[str, Any]) -> str:
    """Return a page with the details of each operation that has a section there."""
    # Code may have lines that look like headings.
    outline = _FENCE.sub(lambda found: " " * len(found[0]), text)
    result, end = "", 0
    for found in _HEADING.finditer(outline):
        later = _ANY_HEADING.search(outline, found.end())
        start, end = end, later.start() if later else len(text)
        methods, path = found.groups()
        result += text[start:end].rstrip() + "\n\n"
        for method in methods.split(", "):
            operation = description["paths"][path][method.lower()]
            result += "\n".join(_details(method, operation, description)) + "\n\n"
    return result + text[end:]


def _details(method: str, operation: Mapping[str, Any], whole: Mapping[str, Any]) -> Iterator[str]:
    yield f'<details class="operation"><summary>Details of {method}</summary>\n'
    yield f"{operation['summary']}. {_line(operation['description'])}\n"
    parameters = [_resolved(each, whole) for each in operation["parameters"]]
    if parameters:
        yield "| parameter | in | meaning |\n| --- | --- | --- |"
        for each in parameters:
            said = " ".join([_needed(each.get("required")), _line(each.get("description", ""))])
            yield f"| `{each['name']}` | {each['in']} | {said.strip()} |"
        yield ""
    body = operation.get("requestBody", {}).get("content", {})
    if body:
        kinds = " or ".join(f"`{kind}`" for kind in body)
        yield f"Body: {kinds}{'' if operation['requestBody'].get('required') else ', optional'}.\n"
        yield from _fields(_resolved(next(iter(body.values()))["schema"], whole))
    yield "| response | |\n| --- | --- |"
    for status, each in operation["responses"].items():
        response = _resolved(each, whole)
        codes = dict.fromkeys(_CODE.findall(response["description"]))
        said = ", ".join(codes) or _line(response["description"]) + _shape(response)
        yield f"| {status} | {said} |"
    yield "\n</details>"


def _fields(schema: Mapping[str, Any]) -> Iterator[str]:
    if "properties" not in schema:
        return
    yield "| field | type | meaning |\n| --- | --- | --- |"
    for name, each in schema["properties"].items():
        needed = _needed(name in schema.get("required", ()))
        said = " ".join([needed, _line(each.get("description", ""))]).strip()
        yield f"| `{name}` | {_type(each)} | {said} |"
    yield ""


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return _name(schema)
    found = schema.get("type", "any")
    kinds = found if isinstance(found, list) else [found]
    text = " or ".join(kinds)
    if "items" in schema:
        text += f" of {_type(schema['items'])}"
    return f"{text}, {schema['format']}" if "format" in schema else text


def _shape(response: Mapping[str, Any]) -> str:
    """Which schema of the description the body has."""
    for kind, content in response.get("content", {}).items():
        if "json" in kind and "$ref" in content.get("schema", {}):
            return f": `{_name(content['schema'])}`"
    return ""


def _needed(required: object) -> str:
    return "Required." if required else ""


def _name(schema: Mapping[str, Any]) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def _line(text: str) -> str:
    """Text in one cell of a table."""
    return " ".join(re.sub(r"\n+- ", " ", text).split()).replace("|", "\\|")


def _resolved(part: Mapping[str, Any], whole: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in part:
        return part
    for name in part["$ref"].removeprefix("#/").split("/"):
        whole = whole[name]
    return whole


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    description = build(ROUTES, "http://127.0.0.1:8080")

    def read(_app: Sphinx, page: str, source: list[str]) -> None:
        if page.startswith(_PAGES):
            source[0] = extend(source[0], description)

    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
