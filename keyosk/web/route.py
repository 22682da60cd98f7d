"""A route: a path, its resource, and who may use each method."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from keyosk.web import operations
from keyosk.web.access import Access
from keyosk.web.endpoint import Endpoint

_MAKING: Final = ("POST", "PUT", "PATCH")
_TEXT: Final = {"type": "string"}

#: The parameters in paths, for /openapi.json.
PARAMETERS: Final[Mapping[str, dict[str, Any]]] = {
    "account": {
        "description": "An id, a username in any spelling, or `me` for the caller's own account.",
        "schema": _TEXT,
        "example": "alice",
    },
    "factor": {
        "description": "The id of a second factor.",
        "schema": _TEXT,
        "example": "019a9f1c-0b1a-7d20-b1f0-5c1f5f8e2d37",
    },
    "file": {
        "description": "A file that the documentation page uses.",
        "schema": _TEXT,
        "example": "swagger-ui.css",
    },
    "issuer": {
        "description": "The name or id of an issuer.",
        "schema": _TEXT,
        "example": "github",
    },
    "key": {
        "description": "The id of an API key.",
        "schema": _TEXT,
        "example": "019a9f1c-0b1a-7d20-b1f0-5c1f5f8e2d37",
    },
    "kid": {
        "description": "The `kid` of a signing key.",
        "schema": _TEXT,
        "example": "n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg",
    },
    "rule": {"description": "The name of a rule.", "schema": _TEXT, "example": "deploy"},
    "role": {"description": "The name of a role.", "schema": _TEXT, "example": "editor"},
    "service": {
        "description": "The id or name of a service.",
        "schema": _TEXT,
        "example": "todo",
    },
    "session": {
        "description": "The id of a refresh session or console session.",
        "schema": _TEXT,
        "example": "019a9f1c-0b1a-7d20-b1f0-5c1f5f8e2d37",
    },
}


@dataclass(frozen=True, slots=True)
class Route:
    """One path.

    ``oauth``: its errors are those of RFC 6749 section 5.2. ``streams``: bodies of any size pass
    through it, piece by piece, and it takes its time. ``instant``: it can do without a
    database that hangs. ``memory``: it reads nothing but this process's memory.
    ``reads_little``: unless it writes, all that it does is to read a few rows of the database.
    """

    path: str
    resource: type[Endpoint]
    access: Mapping[str, Access] = field(default_factory=dict)
    oauth: bool = False
    streams: bool = False
    instant: bool = False
    memory: bool = False
    reads_little: bool = False

    def __post_init__(self) -> None:
        """Raise ``TypeError`` for a missing access decision, declaration or proof."""
        methods: set[str] = set(self.resource.methods or ())
        if methods != self.access.keys():
            undecided = ", ".join(sorted(methods ^ self.access.keys()))
            raise TypeError(f"{self.path}: decided and existing methods differ by {undecided}.")
        for method in methods:
            operations.of(self.resource, method)
            decision = self.access[method]
            if method in _MAKING and decision.itself and not decision.proof:
                raise TypeError(
                    f"{method} {self.path} lets a token alone make or change what is its account's "
                    "own: state a proof (access.itself_proven_or)."
                )
