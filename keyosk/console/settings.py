"""The settings as they are, and what this Keyosk finds wrong with itself."""

from typing import Final

from flask import Response

from keyosk.console.pages import Page, Visit, show


def settings(visit: Visit) -> Response:
    """Show both; nothing is changed here."""
    return show(
        "settings.html",
        settings=visit.api.get("/settings").body["items"],
        checks=visit.api.get("/diagnosis").body["checks"],
    )


PAGES: Final = (Page("GET", "/console/settings", settings),)
