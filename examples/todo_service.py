"""A todo list behind Keyosk: a model of a service that checks tokens by itself.

It knows nothing of Keyosk's code and holds no secret. All it needs is Keyosk's address: there it
fetches the public keys, now and then, and from then on it decides alone.

Run it with ``python examples/todo_service.py``. Settings, from the environment: ``TODO_BIND``
(``127.0.0.1:8081``) and ``KEYOSK_URL`` (``http://127.0.0.1:8080``). It needs flask and
``pyjwt[crypto]``.
"""

import os
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from typing import Any

import jwt
from flask import Flask, Response, g, jsonify, request

# The issuer as it calls itself (KEYOSK_ISSUER), letter by letter: the iss of every token. The keys
# come from there and from nowhere else; a token that names another place for them is not believed.
ISSUER = os.environ.get("KEYOSK_URL") or "http://127.0.0.1:8080"
# The name that this service has at Keyosk. A token for another service does not open this one.
AUDIENCE = "todo"
# What this service accepts, not what a token says of itself: a forger would choose "none", or HMAC
# with our public key as the secret. Add one here before Keyosk changes to it.
ALGORITHMS = ["ES256"]

# Keeps the keys for five minutes, and asks again for a key id that it does not know, but not more
# often than every 30 seconds: made-up key ids must not become a flood of requests to Keyosk.
keys = jwt.PyJWKClient(f"{ISSUER}/.well-known/jwks.json", lifespan=300, timeout=5)

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 16 * 1024

# By account id: a username may be changed, and given to somebody else later.
todos: dict[str, list[str]] = defaultdict(list)


class Refused(Exception):
    """A request that is not let through, in the words of RFC 6750 section 3."""

    def __init__(self, status: int, error: str = "", **more: str) -> None:
        self.status = status
        self.error = error
        parameters = {"realm": AUDIENCE, **({"error": error} if error else {}), **more}
        self.challenge = "Bearer " + ", ".join(f'{k}="{v}"' for k, v in parameters.items())


@app.errorhandler(Refused)
def refused(error: Refused) -> Response:
    """The answer to a request without a good token or without the scope."""
    response = jsonify(error=error.error or "token_required")
    response.status_code = error.status
    response.headers["WWW-Authenticate"] = error.challenge
    return response


@app.errorhandler(jwt.PyJWKClientConnectionError)
def no_keys(_: Exception) -> tuple[Response, int]:
    """Keyosk cannot be reached and its keys are too old: not the caller's fault, so not a 401."""
    return jsonify(error="temporarily_unavailable"), 503


def verified(token: str) -> dict[str, Any]:
    """The claims of a token that is good for this service, now. Refuses any other."""
    try:
        key = keys.get_signing_key_from_jwt(token)
        # One call checks the signature, exp, iss and aud, and that each of the claims under
        # "require" is there at all: otherwise a token without exp would be good for ever.
        decoded = jwt.decode_complete(
            token,
            key,
            algorithms=ALGORITHMS,
            issuer=ISSUER,
            audience=AUDIENCE,
            options={"require": ["iss", "sub", "aud", "exp", "scope"]},
        )
    except jwt.PyJWKClientConnectionError:
        raise
    except (jwt.PyJWTError, ValueError) as error:
        # Why it is refused is for no caller to know.
        raise Refused(401, "invalid_token") from error
    # PyJWT does not look at this one. Keyosk signs other documents with the same keys; only this
    # type is a token that opens a door (RFC 9068 section 4).
    if str(decoded["header"].get("typ", "")).lower() not in ("at+jwt", "application/at+jwt"):
        raise Refused(401, "invalid_token")
    claims: dict[str, Any] = decoded["payload"]
    return claims


def needs(scope: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Let only those into a view whose token has ``scope``; their claims are ``g.claims``."""

    def decorate(view: Callable[[], Any]) -> Callable[[], Any]:
        @wraps(view)
        def guarded() -> Any:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer":
                raise Refused(401)  # no token at all is no error yet: only say what is needed
            claims = verified(token.strip())
            # Whole words: "todo:write" must not be found in "todo:writer".
            if scope not in str(claims["scope"]).split(" "):
                raise Refused(403, "insufficient_scope", scope=scope)
            g.claims = claims
            return view()

        return guarded

    return decorate


@app.get("/todos")
@needs("todo:read")
def list_todos() -> Response:
    """The caller's own list."""
    return jsonify(todos=todos.get(g.claims["sub"], []))


@app.post("/todos")
@needs("todo:write")
def add_todo() -> tuple[Response, int]:
    """Put one thing on the caller's own list."""
    body = request.get_json(silent=True)
    text = body.get("text") if isinstance(body, dict) else None
    if not isinstance(text, str) or not 1 <= len(text) <= 200:
        return jsonify(error="text must be 1 to 200 characters"), 422
    todos[g.claims["sub"]].append(text)
    return jsonify(todos=todos[g.claims["sub"]]), 201


def main() -> None:
    """Serve with Flask's own server, which is for trying out; use a real one for real work."""
    host, _, port = (os.environ.get("TODO_BIND") or "127.0.0.1:8081").rpartition(":")
    app.run(host=host, port=int(port))


if __name__ == "__main__":
    main()
