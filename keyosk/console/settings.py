"""The page with the settings and the findings of the diagnosis."""

from typing import Final

from flask import Response

from keyosk.console.pages import Page, Visit, render


def settings(visit: Visit) -> Response:
    """Show the settings and the findings; nothing can be changed here."""
    return render(
        "settings.html",
        settings=visit.api.get("/settings").body["items"],
        checks=visit.api.get("/diagnosis").body["checks"],
    )


PAGES: Final = (Page("GET", "/console/settings", settings),)
