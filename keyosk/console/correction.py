"""The fields of a form that was refused, so that the person can correct them.

Browsers keep no page of the console (``no-store``), so going back shows an empty form.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from flask import request

from keyosk.console import browser

#: The statuses after which other fields may help.
_CORRECTABLE: Final = (409, 422)
#: The fields that a page may show, with their labels. SECURITY: no secret is one of them.
_LABELS: Final = {
    "username": "Username",
    "display_name": "Display name",
    "kind": "Kind",
    "name": "Name",
    "with": "With",
    "until": "Until",
    "audience": "Audience",
    "scopes": "Scopes",
    "networks": "Networks",
    "expires_at": "Ends",
    "description": "Description",
    "account": "Account",
    "claims": "Claims",
    "once_chosen": "Each token works once",
    "preset": "Platform",
    "issuer": "Issuer",
    "jwks_uri": "URL of the keys",
    "allow_private_chosen": "Private addresses",
    "algorithms": "Algorithms",
    "max_lifetime": "Longest lifetime",
    "required_claims": "Required claims",
    "prefix_claims": "Claims that may end in *",
}
_LONG: Final = frozenset({"claims", "scopes"})
#: What a form sends besides: a new form has its own.
_OTHERS: Final = frozenset({browser.TOKEN, "confirm", "once", "tag", "password"})


@dataclass(frozen=True, slots=True)
class Field:
    """One field: what was sent, and whether it takes several lines."""

    name: str
    label: str
    value: str
    is_long: bool


def fields(status: int) -> list[Field]:
    """Return the fields of the refused form; none if it has others, or a field several times."""
    if request.method != "POST" or status not in _CORRECTABLE:
        return []
    sent = {name: values for name, values in request.form.lists() if values != [""]}
    if any(len(values) > 1 for values in sent.values()) or not sent.keys() <= {*_LABELS, *_OTHERS}:
        return []
    return list(_fields())


def _fields() -> Iterator[Field]:
    for name, label in _LABELS.items():
        if name in request.form:
            yield Field(name, label, request.form[name], name in _LONG)
