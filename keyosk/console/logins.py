"""Login and logout."""

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlencode

from flask import Response, g, request

from keyosk.accounts.console_sessions import NewConsoleSession
from keyosk.console import browser
from keyosk.console.pages import Page, Visit, next_path, redirect_to, render, text
from keyosk.credentials.presented import Candidate
from keyosk.errors import BadCredentials, Forbidden, KeyoskError, Throttled
from keyosk.installation import Installation
from keyosk.model import Principal
from keyosk.web import access_log

_SECOND: Final = "/console/login/second-factor"
_TOO_MANY_CODES: Final = "Too many wrong codes: try again later."
_NEEDS_TLS: Final = (
    "The console needs HTTPS, as its cookie must not be read on the way: set KEYOSK_ISSUER to the "
    "https URL of a proxy with TLS, or open it on the machine itself (http://127.0.0.1)."
)


class Logins:
    """The pages without a session."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation

    def pages(self) -> tuple[Page, ...]:
        """Return them."""
        return (
            Page("GET", "/console/login", self.form, is_open=True),
            Page("POST", "/console/login", self.log_in, is_open=True),
            Page("GET", "/console/login/second-factor", self.second_form, is_open=True),
            Page("POST", "/console/login/second-factor", self.show_code, is_open=True),
            Page("POST", "/console/logout", self.log_out, for_enrolment=True),
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
        # SECURITY: always tried as a password, because no API key may log in here.
        candidate = Candidate(username, request.form.get("password", ""), is_api_key=False)
        try:
            principal = self._installation.authentication.by_secret([candidate], address=g.address)
            access_log.note(account=principal.account_id)
            return self._after_password(cookies, principal)
        except BadCredentials:
            return self._ask(cookies, "The username or password is wrong.", 401)
        except Throttled as error:
            response = self._ask(cookies, error.detail, 429)
            response.headers["Retry-After"] = str(error.retry_after)
            return response

    def _after_password(self, cookies: browser.Cookies, principal: Principal) -> Response:
        """Begin a session, or ask for the second factor. Raises ``BadCredentials``."""
        if self._installation.second_factors.is_enrolled(principal.account_id):
            pending = self._installation.pending_logins.begin(principal)
            response = redirect_to(f"{_SECOND}?{urlencode({'next': next_path()})}")
            cookies.put(response, cookies.pending, pending)
            return response
        started = self._installation.console_sessions.begin(principal, **_from())
        return self._begun(cookies, started, principal)

    def second_form(self) -> Response:
        """Ask for the second factor."""
        cookies, secret = self._pending()
        if cookies is None or secret is None:
            return redirect_to("/console/login")
        return self._ask_factor(cookies, secret)

    def show_code(self) -> Response:
        """Begin a session by a code of an app or a recovery code."""
        cookies, secret = self._pending()
        if cookies is None or secret is None:
            return redirect_to("/console/login")
        browser.check_token(request, browser.form_token(secret))
        pending = self._installation.pending_logins
        try:
            pending.find(secret)
        except BadCredentials:
            return self._again(cookies)
        try:
            started, principal = pending.finish(
                secret, code=text("code"), passkey=text("passkey"), **_from()
            )
        except BadCredentials as error:
            return self._ask_factor(cookies, secret, fault=error.detail, status=401)
        except Throttled as error:
            response = self._ask_factor(cookies, secret, fault=_TOO_MANY_CODES, status=429)
            response.headers["Retry-After"] = str(error.retry_after)
            return response
        access_log.note(account=principal.account_id)
        return self._begun(cookies, started, principal)

    def log_out(self, visit: Visit) -> Response:
        """End the session."""
        visit.api.send(
            "DELETE", f"/accounts/{visit.session.account_id}/console-sessions/{visit.session.id}"
        )
        response = redirect_to("/console/login")
        cookies = self._cookies()
        if cookies is not None:
            cookies.drop(response, cookies.session)
        return response

    def _ask(
        self, cookies: browser.Cookies, fault: str | None = None, status: int = 200
    ) -> Response:
        secret = request.cookies.get(cookies.login) or browser.new_secret()
        response = render(
            "login.html",
            status,
            fault=fault,
            login_token=browser.form_token(secret),
            place=next_path(),
            username=request.form.get("username", ""),
        )
        cookies.put(response, cookies.login, secret)
        return response

    def _begun(
        self, cookies: browser.Cookies, started: NewConsoleSession, principal: Principal
    ) -> Response:
        self._end_earlier(cookies)
        response = redirect_to(next_path())
        cookies.drop(response, cookies.login)
        cookies.drop(response, cookies.pending)
        cookies.put(response, cookies.session, started.secret)
        response.call_on_close(_afterwards(self._installation, principal))
        return response

    def _pending(self) -> tuple[browser.Cookies | None, str | None]:
        cookies = self._cookies()
        return cookies, request.cookies.get(cookies.pending) if cookies else None

    def _again(self, cookies: browser.Cookies) -> Response:
        """Redirect a browser whose login took too long to the login page."""
        response = redirect_to("/console/login")
        cookies.drop(response, cookies.pending)
        return response

    def _ask_factor(
        self,
        cookies: browser.Cookies,
        secret: str,
        *,
        fault: str | None = None,
        status: int = 200,
    ) -> Response:
        try:
            options = self._installation.pending_logins.challenge(secret)
        except BadCredentials:
            return self._again(cookies)
        return render(
            "login_factor.html",
            status,
            fault=fault,
            login_token=browser.form_token(secret),
            place=next_path(),
            options=options,
        )

    def _end_earlier(self, cookies: browser.Cookies) -> None:
        """End the session that this browser had before."""
        earlier = request.cookies.get(cookies.session)
        if earlier:
            try:
                self._installation.console_sessions.forget(earlier)
            except KeyoskError:  # it expires by itself
                return

    def _cookies(self) -> browser.Cookies | None:
        return browser.cookies_of(request, self._installation.issuer)


def _from() -> dict[str, Any]:
    """Return the client address of the request."""
    agent = request.headers.get("User-Agent", "")
    return {"address": g.address, "agent": agent, "request_id": g.request_id}


def _afterwards(installation: Installation, principal: Principal) -> Callable[[], None]:
    def note() -> None:
        installation.authentication.record_use(principal)
        installation.audit.seal_quietly()

    return note
