"""Public URLs in responses: each begins with the issuer, including its path."""

from typing import Final

from flask import Flask, current_app

_EXTENSION: Final = "keyosk.issuer"


def publish_under(app: Flask, issuer: str) -> None:
    """Set the issuer, with which the URLs of the application begin.

    SECURITY: never the Host header, which the caller controls.
    """
    app.extensions[_EXTENSION] = issuer


def url(path: str) -> str:
    """Return the public URL of a path that is percent-encoded already."""
    return f"{current_app.extensions[_EXTENSION]}{path}"
