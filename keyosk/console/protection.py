"""Code that protects a service, from the guides in docs/how-to/services.

``tests/test_console_services.py`` compares each line with its guide.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

#: The placeholders for the issuer, the audience and a scope in the guides.
_ISSUER: Final = "http://127.0.0.1:8080"
_AUDIENCE: Final = "todo"
_SCOPE: Final = "todo:read"


@dataclass(frozen=True, slots=True)
class Guide:
    """A framework, the file of its guide, and the code from it."""

    name: str
    file: str
    code: str


GUIDES: Final = (
    Guide(
        "FastAPI",
        "fastapi.md",
        """from keyosk_client import Token
from keyosk_client.fastapi import Keyosk

keyosk = Keyosk("http://127.0.0.1:8080", "todo")

@app.get("/todos")
def list_todos(token: Annotated[Token, Depends(keyosk.require("todo:read"))]) -> list[str]:
""",
    ),
    Guide(
        "Flask",
        "flask.md",
        """from keyosk_client.flask import Keyosk

keyosk = Keyosk("http://127.0.0.1:8080", "todo")

@app.get("/todos")
@keyosk.require("todo:read")
def list_todos():
""",
    ),
    Guide(
        "Django",
        "django.md",
        """from keyosk_client.django import require

    KEYOSK={"ISSUER": "http://127.0.0.1:8080", "AUDIENCE": "todo"},

@require("todo:read")
def list_todos(request):
""",
    ),
    Guide(
        "aiohttp",
        "aiohttp.md",
        """from keyosk_client.aiohttp import Keyosk

keyosk = Keyosk("http://127.0.0.1:8080", "todo")

@routes.get("/todos")
@keyosk.require("todo:read")
async def list_todos(request: web.Request) -> web.Response:
""",
    ),
    Guide(
        "Express",
        "node.md",
        """import { Keyosk } from "@keyosk/client/express";

const keyosk = new Keyosk({ issuer: "http://127.0.0.1:8080", audience: "todo" });

app.get("/todos", keyosk.require("todo:read"), (request, response) => {
""",
    ),
    Guide(
        "Go",
        "go.md",
        """// main.go
	keyosk, err := NewKeyosk(context.Background(), "http://127.0.0.1:8080", "todo")
	http.HandleFunc("/todos", keyosk.Require("todo:read", listTodos))

// keyosk.go
		jwt.WithValidMethods([]string{"ES256"}),
""",
    ),
)


def filled(guide: Guide, issuer: str, service: Mapping[str, Any]) -> str:
    """Return the code for a service."""
    scopes = service["scopes"]
    code = guide.code.replace(_SCOPE, "\0")
    code = code.replace(f'"{_AUDIENCE}"', f'"{service["audience"]}"').replace(_ISSUER, issuer)
    if service["signing_algorithm"]:
        code = code.replace('"ES256"', f'"{service["signing_algorithm"]}"')
    return code.replace("\0", scopes[0]["name"] if scopes else _SCOPE)
