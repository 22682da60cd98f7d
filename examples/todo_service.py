"""A todo list behind Keyosk: a model of a service that checks tokens by itself.

It holds no secret. ``keyosk-client`` fetches Keyosk's public keys and its list of revoked tokens,
now and then; from them the service decides alone, also while Keyosk is away.

Run it with ``python examples/todo_service.py``. Settings, from the environment: ``TODO_BIND``
(``127.0.0.1:8081``) and ``KEYOSK_URL`` (``http://127.0.0.1:8080``). It needs flask and
``keyosk-client``.
"""

import os
from collections import defaultdict
from typing import Any

from flask import Flask, jsonify, request

from keyosk_client.flask import Keyosk

# The issuer as it calls itself (KEYOSK_ISSUER), letter by letter, and the name that this service
# has at Keyosk: a token for another service does not open this one.
keyosk = Keyosk(os.environ.get("KEYOSK_URL") or "http://127.0.0.1:8080", "todo")

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 16 * 1024

# By account id: a username may be changed, and given to somebody else later.
todos: dict[str, list[str]] = defaultdict(list)


@app.get("/todos")
@keyosk.require("todo:read")
def list_todos() -> Any:
    """The caller's own list."""
    return jsonify(todos=todos.get(keyosk.token.subject, []))


@app.post("/todos")
@keyosk.require("todo:write")
def add_todo() -> Any:
    """Put one thing on the caller's own list."""
    body = request.get_json(silent=True)
    text = body.get("text") if isinstance(body, dict) else None
    if not isinstance(text, str) or not 1 <= len(text) <= 200:
        return jsonify(error="text must be 1 to 200 characters"), 422
    todos[keyosk.token.subject].append(text)
    return jsonify(todos=todos[keyosk.token.subject]), 201


def main() -> None:
    """Serve with Flask's own server, which is for trying out; use a real one for real work."""
    host, _, port = (os.environ.get("TODO_BIND") or "127.0.0.1:8081").rpartition(":")
    app.run(host=host, port=int(port))


if __name__ == "__main__":
    main()
