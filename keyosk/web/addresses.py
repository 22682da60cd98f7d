"""Every URL that is given out: it begins with the issuer, its path included."""

from typing import Final

from flask import Flask, current_app

_EXTENSION: Final = "keyosk.issuer"


def publish_under(app: Flask, issuer: str) -> None:
    """Have the application's URLs begin with this.

    SECURITY: never with the Host header, which the caller writes.
    """
    app.extensions[_EXTENSION] = issuer


def url(path: str) -> str:
    """The URL under which others reach a path, which is in percent codes already."""
    return f"{current_app.extensions[_EXTENSION]}{path}"
