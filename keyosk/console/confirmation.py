"""The page that takes a confirmation for a form elsewhere which has a secret.

No second page must repeat a secret, so such a form is shown once there was a confirmation.
"""

from typing import Final
from urllib.parse import urlencode

from flask import Response

from keyosk.console.pages import Page, Visit, go, place, unconfirmed

_PLACE: Final = "/console/confirm"


def confirm(visit: Visit) -> Response:
    """Take the password, and a second factor from whoever has one; go on to what was wanted."""
    if visit.installation.confirmations.is_fresh(visit.session):
        return go(place())
    page = unconfirmed(visit, "Confirm that it is you", (), button="Confirm")
    return go(place()) if page is None else page


def lead(wanted: str) -> Response:
    """Send the browser there first, and to a page of the console then."""
    return go(f"{_PLACE}?{urlencode({'next': wanted})}")


PAGES: Final = (Page("GET", _PLACE, confirm), Page("POST", _PLACE, confirm))
