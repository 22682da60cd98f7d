"""The page for a confirmation before a form with a secret.

A second page must not repeat a secret, so the form is shown after the confirmation.
"""

from typing import Final
from urllib.parse import urlencode

from flask import Response

from keyosk.console.pages import Page, Visit, confirmation_page, next_path, redirect_to

_PLACE: Final = "/console/confirm"


def confirm(visit: Visit) -> Response:
    """Verify the password and the second factor, if there is one; then go to the form."""
    if visit.installation.confirmations.is_fresh(visit.session):
        return redirect_to(next_path())
    page = confirmation_page(visit, "Confirm that it is you", (), button="Confirm")
    return redirect_to(next_path()) if page is None else page


def redirect(path: str) -> Response:
    """Redirect to the confirmation, and from there to a page of the console."""
    return redirect_to(f"{_PLACE}?{urlencode({'next': path})}")


PAGES: Final = (Page("GET", _PLACE, confirm), Page("POST", _PLACE, confirm))
