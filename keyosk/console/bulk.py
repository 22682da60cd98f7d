"""Acts on many accounts: one request for each, with its own row of the audit log."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from flask import Response, request

from keyosk.console.api import Api, Refused, Reply, segment
from keyosk.console.pages import Page, Visit, confirmation_page, redirect_to, render, text
from keyosk.errors import Invalid

#: The most accounts, as many as on a page of the list.
_MOST: Final = 200
#: The most names that the confirmation shows.
_NAMED: Final = 20
_EVERYWHERE: Final = (
    "Services that poll revocations refuse their tokens within a minute; all others do once the "
    "tokens have expired. The next page says when that holds everywhere."
)


@dataclass(frozen=True, slots=True)
class Act:
    """An act on each account."""

    title: str
    button: str
    effects: tuple[str, ...]
    send: Callable[[Api, str], Reply]


_ACTS: Final[Mapping[str, Act]] = {
    "disable": Act(
        "Disable {}?",
        "Disable them",
        (
            "The accounts get no new token, by password or by API key.",
            "All their refresh sessions and console sessions end.",
            _EVERYWHERE,
        ),
        lambda api, path: api.send("PATCH", path, {"enabled": False}),
    ),
    "enable": Act(
        "Enable {}?",
        "Enable them",
        ("The accounts may log in again, with the passwords and API keys that they have.",),
        lambda api, path: api.send("PATCH", path, {"enabled": True}),
    ),
    "end-tokens": Act(
        "End all tokens of {}?",
        "End their tokens",
        ("All their refresh sessions and console sessions end.", _EVERYWHERE),
        lambda api, path: api.send("DELETE", f"{path}/tokens"),
    ),
}


def act(visit: Visit) -> Response:
    """Do one thing to each of the accounts that were chosen, and show how each went."""
    chosen = list(dict.fromkeys(request.form.getlist("account")))[:_MOST]
    if not chosen:
        return redirect_to("/console/accounts", "none-chosen")
    action = _ACTS.get(text("act"))
    if action is None:
        raise Invalid.field("act", "must be one of " + ", ".join(_ACTS))
    names = [_name(visit.api, username) for username in chosen[:_NAMED]]
    more = len(chosen) - len(names)
    page = confirmation_page(
        visit,
        action.title.format(f"{len(chosen)} account{'' if len(chosen) == 1 else 's'}"),
        (f"Of {', '.join(names)}{f' and {more} more' if more else ''}.", *action.effects),
        button=action.button,
    )
    if page is not None:
        return page
    outcomes = [_outcome(visit.api, action, username) for username in chosen]
    return render(
        "bulk.html",
        title=action.button,
        outcomes=outcomes,
        refused=sum(1 for username in outcomes if username["fault"]),
        at=max((username["at"] for username in outcomes if username["at"]), default=None),
    )


def _outcome(api: Api, action: Act, reference: str) -> dict[str, Any]:
    """Return the result for one account; a refusal does not stop the others."""
    name, fault, at = _name(api, reference), None, None
    try:
        at = action.send(api, f"/accounts/{segment(reference)}").effective_at
    except Refused as error:
        fault = error.problem.get("detail") or error.problem.get("title") or "It was refused."
    return {"id": reference, "name": name, "fault": fault, "at": at}


def _name(api: Api, reference: str) -> str:
    try:
        return str(api.get(f"/accounts/{segment(reference)}").body["username"])
    except Refused:
        return reference


PAGES: Final = (Page("POST", "/console/accounts/bulk", act),)
