"""Second factors: a person adds their own at ``/me/second-factors``, and admins remove others'."""

from dataclasses import replace
from typing import Final

from flask import Response, g, request

from keyosk.accounts.console_sessions import VIA
from keyosk.accounts.second_factors import Added, Offer
from keyosk.console import browser
from keyosk.console.api import segment
from keyosk.console.pages import (
    Page,
    Visit,
    confirmation_page,
    own_password,
    redirect_to,
    render,
    text,
)
from keyosk.credentials.authentication import caller_of
from keyosk.errors import BadCredentials, Conflict, Invalid
from keyosk.model import Caller

#: The page for adding a required second factor.
PLACE: Final = "/me/second-factors"
_OTHERS_END: Final = "All your other sessions in the console end."
_CODES_END: Final = "The codes from before stop working."


def own(visit: Visit) -> Response:
    """List one's own second factors, and offer to add one."""
    return _own(visit)


def offer_app(visit: Visit) -> Response:
    """Show the secret for an authenticator app, after a confirmation."""
    page = _unproven(visit, "Add an authenticator app?", _OTHERS_END)
    if page is not None:
        return page
    offer = visit.installation.second_factors.offer_app(
        visit.principal, visit.session, text("name")
    )
    return _show_offer(offer)


def add_app(visit: Visit) -> Response:
    """Add the app by a code that it shows, and show recovery codes once."""
    factors, sealed = visit.installation.second_factors, text("offer")
    try:
        added = factors.add_app(_caller(visit), visit.session, sealed, code=text("code"))
    except Conflict:  # the form was sent twice
        return redirect_to(PLACE)
    except Invalid as error:
        if any(fault.field != "code" for fault in error.faults):
            raise
        offer = factors.offered(visit.principal, visit.session, sealed)
        return _show_offer(offer, f"The code {error.faults[0].message}", 422)
    return _added(visit, added)


def offer_passkey(visit: Visit) -> Response:
    """Let the browser create a passkey, after a confirmation."""
    page = _unproven(visit, "Add a passkey?", _OTHERS_END)
    if page is not None:
        return page
    offer = visit.installation.second_factors.offer_passkey(
        visit.principal, visit.session, text("name")
    )
    return render("passkey.html", offer=offer.sealed, options=offer.options)


def add_passkey(visit: Visit) -> Response:
    """Add the passkey that the browser created, and show recovery codes once."""
    factors, sealed = visit.installation.second_factors, text("offer")
    try:
        added = factors.add_passkey(_caller(visit), visit.session, sealed, response=text("passkey"))
    except Conflict:  # the form was sent twice, or the passkey is here already
        return redirect_to(PLACE)
    except BadCredentials as error:
        return _own(visit, error.detail, 422)
    return _added(visit, added)


def renew_recovery_codes(visit: Visit) -> Response:
    """Create new recovery codes, and show them once."""
    page = _unproven(visit, "Make new recovery codes?", _CODES_END, _OTHERS_END)
    if page is not None:
        return page
    codes = visit.installation.second_factors.renew_recovery_codes(_caller(visit), visit.session)
    return render("recovery_codes.html", codes=codes)


def remove(visit: Visit, reference: str, factor: str) -> Response:
    """Remove a second factor."""
    is_own = visit.is_own(reference)
    page = confirmation_page(
        visit,
        "Remove this second factor?",
        (
            "It no longer works. Recovery codes go with the last of the others.",
            "All console sessions of the account end.",
        ),
        button="Remove it",
        own=is_own,
    )
    if page is not None:
        return page
    path = f"/accounts/{segment(reference)}/second-factors/{segment(factor)}"
    visit.api.send("DELETE", path, own_password(is_own) or None)
    if is_own:
        return redirect_to("/console/login")
    return redirect_to(f"/console/accounts/{segment(reference)}", "factor-removed")


def _unproven(visit: Visit, title: str, *effects: str) -> Response | None:
    """Ask for a confirmation, as for every change of one's own credentials."""
    return confirmation_page(visit, title, effects, button="Go on", own=True)


def _added(visit: Visit, added: Added) -> Response:
    """Show recovery codes, if there are new ones, in the session with its new secret."""
    g.visit = replace(visit, secret=added.session_secret)
    codes = added.codes
    response = redirect_to(PLACE) if codes is None else render("recovery_codes.html", codes=codes)
    cookies = browser.cookies_of(request, visit.installation.issuer)
    if cookies is not None:
        cookies.put(response, cookies.session, added.session_secret)
    return response


def _own(visit: Visit, fault: str | None = None, status: int = 200) -> Response:
    factors = visit.api.get("/accounts/me/second-factors", limit=50).body["items"]
    return render(
        "second_factors.html",
        status,
        factors=factors,
        fault=fault,
        has_passkeys=visit.installation.second_factors.has_passkeys,
        # Otherwise the next page asks for the second factor as well.
        asks_here=not visit.installation.confirmations.needs_factor(visit.session),
    )


def _show_offer(offer: Offer, fault: str | None = None, status: int = 200) -> Response:
    return render(
        "authenticator_app.html",
        status,
        offer=offer.sealed,
        secret=" ".join(offer.secret[at : at + 4] for at in range(0, len(offer.secret), 4)),
        image=_qr_code(offer.uri),
        fault=fault,
    )


def _qr_code(uri: str) -> str:
    """Return a QR code as an SVG element."""
    import segno  # noqa: PLC0415 - it slows down each start, and few need it

    # Always light, because not all cameras read an inverted code.
    drawn = segno.make_qr(uri).svg_inline(scale=4, border=4, dark="#000", light="#fff")
    return drawn.replace("<svg ", '<svg role="img" aria-label="QR code with the secret below" ', 1)


def _caller(visit: Visit) -> Caller:
    return caller_of(
        visit.principal,
        address=g.address,
        request_id=g.request_id,
        via=VIA,
    )


PAGES: Final = (
    Page("GET", PLACE, own, for_enrolment=True),
    Page("POST", f"{PLACE}/app", offer_app, for_enrolment=True),
    Page("POST", f"{PLACE}/app/confirm", add_app, for_enrolment=True),
    Page("POST", f"{PLACE}/passkey", offer_passkey, for_enrolment=True),
    Page("POST", f"{PLACE}/passkey/confirm", add_passkey, for_enrolment=True),
    Page("POST", f"{PLACE}/recovery-codes", renew_recovery_codes),
    Page("POST", "/console/accounts/<reference>/second-factors/<factor>/remove", remove),
)
