"""Documents that operators write: YAML, with the line of each value; JSON and TOML by their names.

Only data are read: no tags, anchors or duplicate keys. Scalars are those of YAML 1.2: ``no`` and
``on`` are text. Times are text, too; the schemas parse them.
"""

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any, Final

import yaml

from keyosk import strict_json
from keyosk.errors import Fault, Invalid
from keyosk.strict_json import BadJson

_TAG: Final = "tag:yaml.org,2002:"
_STRING: Final = f"{_TAG}str"
#: The core schema of YAML 1.2 (section 10.3.2): plain scalars that are not text.
_WORDS: Final[tuple[tuple[str, str], ...]] = (
    ("null", r"null|Null|NULL|~|"),
    ("bool", r"true|True|TRUE|false|False|FALSE"),
    ("int", r"[-+]?[0-9]+"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"),
)
_READ: Final[Mapping[str, Callable[[str], Any]]] = {
    _STRING: str,
    f"{_TAG}null": lambda _: None,
    f"{_TAG}bool": lambda text: text.lower() == "true",
    f"{_TAG}int": int,
    f"{_TAG}float": float,
}


@dataclass(frozen=True, slots=True)
class Document:
    """The content of a document; ``lines``: by path, such as ``accounts.0.username``."""

    value: Any
    lines: Mapping[str, int] = field(default_factory=dict)

    def line_of(self, path: str) -> int | None:
        """Return the line of the innermost value on a path, if lines are known."""
        while path and path not in self.lines:
            path = path.rpartition(".")[0]
        return self.lines.get(path)


class _Loader(yaml.SafeLoader):
    """Parses plain scalars as YAML 1.2 does.

    In Python, because libyaml's composer overflows the C stack on deep nesting.
    """

    yaml_implicit_resolvers: Mapping[str, Any] = {}


for _word, _pattern in _WORDS:
    _Loader.add_implicit_resolver(f"{_TAG}{_word}", re.compile(rf"(?:{_pattern})\Z"), None)


def parse(text: bytes, *, name: str) -> Document:
    """Parse ``text``: as JSON or TOML if the name ends in ``.json`` or ``.toml``, else as YAML.

    Raises ``Invalid`` with the position. It quotes nothing, because it may be a secret.
    """
    try:
        content = text.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Invalid.field(name, "must be UTF-8") from None
    try:
        if name.endswith(".json"):
            return Document(strict_json.parse(content))
        if name.endswith(".toml"):
            return Document(_without_times(tomllib.loads(content)))
        return _yaml(content, name)
    except BadJson as error:
        place = name if error.line is None else f"{name}:{error.line}"
        raise Invalid.field(place, str(error)) from None
    except tomllib.TOMLDecodeError as error:
        raise Invalid.field(name, str(error)) from None
    except (ValueError, RecursionError):  # of YAML and TOML that are valid
        message = "is nested too deeply, or has a number with too many digits"
        raise Invalid.field(name, message) from None


def _yaml(content: str, name: str) -> Document:
    try:
        root = yaml.compose(content, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = name if mark is None else f"{name}:{mark.line + 1}"
        raise Invalid.field(place, error.problem or "is not YAML") from None
    except yaml.YAMLError:
        raise Invalid.field(name, "is not YAML: it has characters that text cannot have") from None
    reading = _Reading()
    value = None if root is None else reading.value(root, "")
    if reading.faults:
        raise Invalid(
            Fault(f"{name}:{line}" + (f": {path}" if path else ""), message)
            for line, path, message in reading.faults
        )
    return Document(value, reading.lines)


class _Reading:
    """Converts nodes to values, and collects their lines and their faults."""

    def __init__(self) -> None:
        self.lines: dict[str, int] = {}
        self.faults: list[tuple[int, str, str]] = []
        self._seen: set[int] = set()

    def value(self, node: Any, path: str) -> Any:
        """Return the value of a node, at a path."""
        # An alias is the node of its anchor, so its line is that of its key.
        line = self.lines.setdefault(path, node.start_mark.line + 1)
        if id(node) in self._seen:
            self._fault(line, path, "must not be an alias (*): write it out")
            return None
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.value(item, _join(path, str(n))) for n, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag in _READ:
            try:
                return _READ[node.tag](node.value)
            except ValueError:  # an explicit tag on another scalar, or an infinite number
                self._fault(line, path, "is not a value of its tag")
                return None
        self._fault(line, path, "must not have a tag (!)")
        return None

    def _mapping(self, node: Any, path: str) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for key, inner in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != _STRING:
                self._fault(line, path, "has a name that is not text")
                continue
            inside = _join(path, key.value)
            if key.value in members:
                self._fault(line, inside, "is given twice")
            self.lines[inside] = line
            members[key.value] = self.value(inner, inside)
        return members

    def _fault(self, line: int, path: str, message: str) -> None:
        self.faults.append((line, path, message))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _without_times(value: Any) -> Any:
    """Return a value with TOML's times as text, which the schemas parse."""
    if isinstance(value, dict):
        return {name: _without_times(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_times(inner) for inner in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return value
