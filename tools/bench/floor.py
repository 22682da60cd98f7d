"""The floor: what any Flask application costs, a route that returns a little JSON."""

from flask import Flask, Response, jsonify

app = Flask("floor")


@app.get("/")
def route() -> Response:
    """Return a little JSON."""
    return jsonify(text="x" * 300, number=900, scope="bench:read bench:write", kind="Bearer")
