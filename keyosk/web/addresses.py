"""URLs in responses: each begins with the issuer, its path included."""

from typing import Final

from flask import Flask, current_app

_EXTENSION: Final = "keyosk.issuer"


def publish_under(app: Flask, issuer: str) -> None:
    """Set what the URLs of the application begin with.

    SECURITY: never the Host header, which the caller writes.
    """
    app.extensions[_EXTENSION] = issuer


def url(path: str) -> str:
    """Return the public URL of a path that is percent-encoded already."""
    return f"{current_app.extensions[_EXTENSION]}{path}"
