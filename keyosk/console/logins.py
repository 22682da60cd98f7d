"""Login and logout."""

import re
from collections.abc import Callable
from typing import Final

from flask import Response, g, request

from keyosk.console import browser
from keyosk.console.pages import Page, Visit, go, show
from keyosk.credentials.presented import Candidate
from keyosk.errors import BadCredentials, Forbidden, KeyoskError, Throttled
from keyosk.installation import Installation
from keyosk.model import Principal
from keyosk.web import access_log

#: Where a login may lead: a page of the console, never another site.
_PLACE: Final = re.compile(r"/(?:console|me)(?:[/?][!-\[\]-~]*)?", re.ASCII)
_NEEDS_TLS: Final = (
    "The console needs HTTPS, as its cookie must not be read on the way: set KEYOSK_ISSUER to the "
    "https URL of a proxy with TLS, or open it on the machine itself (http://127.0.0.1)."
)


class Logins:
    """The pages that need no session."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation

    def pages(self) -> tuple[Page, ...]:
        """Return them."""
        return (
            Page("GET", "/console/login", self.form, is_open=True),
            Page("POST", "/console/login", self.log_in, is_open=True),
            Page("POST", "/console/logout", self.log_out),
        )

    def form(self) -> Response:
        """Ask for username and password."""
        cookies = self._cookies()
        if cookies is None:
            raise Forbidden(_NEEDS_TLS)
        return self._ask(cookies)

    def log_in(self) -> Response:
        """Begin a session by username and password."""
        cookies = self._cookies()
        if cookies is None:
            raise Forbidden(_NEEDS_TLS)
        secret = request.cookies.get(cookies.login)
        if not secret:
            return self._ask(cookies, "The form was too old, or cookies are off: try again.", 403)
        browser.check_token(request, browser.form_token(secret))
        username = request.form.get("username", "")
        # SECURITY: tried as a password whatever it looks like: no API key logs in here.
        candidate = Candidate(username, request.form.get("password", ""), is_api_key=False)
        try:
            principal = self._installation.authentication.by_secret([candidate], address=g.address)
        except BadCredentials:
            return self._ask(cookies, "The username or password is wrong.", 401)
        except Throttled as error:
            response = self._ask(cookies, error.detail, 429)
            response.headers["Retry-After"] = str(error.retry_after)
            return response
        access_log.note(account=principal.account_id)
        sessions = self._installation.console_sessions
        started = sessions.begin(
            principal,
            address=g.address,
            agent=request.headers.get("User-Agent", ""),
            request_id=g.request_id,
        )
        self._end_earlier(cookies)
        response = go(_place())
        cookies.drop(response, cookies.login)
        cookies.put(response, cookies.session, started.secret)
        response.call_on_close(_afterwards(self._installation, principal))
        return response

    def log_out(self, visit: Visit) -> Response:
        """End the session."""
        visit.api.send(
            "DELETE", f"/accounts/{visit.session.account_id}/console-sessions/{visit.session.id}"
        )
        response = go("/console/login")
        cookies = self._cookies()
        if cookies is not None:
            cookies.drop(response, cookies.session)
        return response

    def _ask(
        self, cookies: browser.Cookies, fault: str | None = None, status: int = 200
    ) -> Response:
        secret = request.cookies.get(cookies.login) or browser.new_secret()
        response = show(
            "login.html",
            status,
            fault=fault,
            login_token=browser.form_token(secret),
            place=_place(),
            username=request.form.get("username", ""),
        )
        cookies.put(response, cookies.login, secret)
        return response

    def _end_earlier(self, cookies: browser.Cookies) -> None:
        """End the session that this browser had before."""
        earlier = request.cookies.get(cookies.session)
        if earlier:
            try:
                self._installation.console_sessions.forget(earlier)
            except KeyoskError:  # it ends by itself
                return

    def _cookies(self) -> browser.Cookies | None:
        return browser.cookies_of(request, self._installation.issuer)


def _afterwards(installation: Installation, principal: Principal) -> Callable[[], None]:
    def note() -> None:
        installation.authentication.record_use(principal)
        installation.audit.seal_quietly()

    return note


def _place() -> str:
    wanted = request.values.get("next", "")
    return wanted if _PLACE.fullmatch(wanted) else "/console"
