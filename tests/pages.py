"""A browser without JavaScript for pages of the console: cookies, forms, parsed HTML."""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import pyotp
import requests
from werkzeug.test import TestResponse

from live import Client, LiveServer
from people import PASSWORD

#: Elements that have no end tag.
_VOID = frozenset({"meta", "link", "input", "br"})
#: What the templates are made of.
_TAGS = frozenset(
    """html head meta title body header nav main section h1 h2 p a ul li dl dt dd form label input
    select option textarea button fieldset legend table caption thead tbody tr th td details summary
    code pre span strong time del ins br div figure figcaption svg g rect path text desc""".split()  # noqa: SIM905 - they are words
)
#: What runs, styles or sends by itself.
_ATTRIBUTES = frozenset({"style", "srcdoc", "formaction", "ping"})


@dataclass
class Form:
    """One form of a page, with what is filled in."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[str] = field(default_factory=list)


class Page(HTMLParser):
    """What a page says, what it would run, and the forms it has."""

    def __init__(self, response: requests.Response | TestResponse) -> None:
        super().__init__(convert_charrefs=True)
        self.status = response.status_code
        self._url = response.url if isinstance(response, requests.Response) else ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.forms: list[Form] = []
        self.titles: list[str] = []
        self._open: list[str] = []
        self.feed(response.text)
        self.close()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def h1(self) -> str:
        return " ".join(self.titles)

    def form(self, action: str) -> Form:
        """The one form whose action ends like this."""
        (found,) = [form for form in self.forms if form.action.endswith(action)]
        return found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert len(given) == len(attrs), f"an attribute twice: {attrs}"
        self.tags.append((tag, given))
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "form":
            action = given.get("action") or self._url
            self.forms.append(Form(action, given.get("method") or "get"))
        if tag in ("input", "textarea", "select") and self.forms and "form" in self._open:
            self.forms[-1].fields[given.get("name") or ""] = given.get("value") or ""

    def handle_endtag(self, tag: str) -> None:
        assert tag not in _VOID
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if "h1" in self._open:
            self.titles.append(data.strip())

    def dangers(self) -> list[str]:
        """What of it would run, be styled or be fetched although no template of ours says so."""
        dangers = []
        for tag, given in self.tags:
            if tag in ("script", "link"):
                place = given.get("src") or given.get("href") or ""
                if not place.startswith(("/console/static/", "data:,")):
                    dangers.append(f"<{tag}> from {place!r}")
            elif tag not in _TAGS or (tag == "svg" and given.get("role") != "img"):
                dangers.append(f"<{tag}>")
            for name, value in given.items():
                if name.startswith(("on", "hx-on", "data-hx")) or name in (
                    "style",
                    "srcdoc",
                    "formaction",
                    "ping",
                ):
                    dangers.append(f"{tag} {name}={value!r}")
                if name in ("href", "src", "action", "hx-get") and not (value or "").startswith(
                    ("/", "?", "#", "data:,")
                ):
                    dangers.append(f"{tag} {name}={value!r}")
                if name in ("href", "src", "action", "hx-get") and (value or "").startswith("//"):
                    dangers.append(f"{tag} {name}={value!r}")
        return dangers


class Browser:
    """A browser of one person."""

    def __init__(self, server: LiveServer) -> None:
        self.server = server
        self.client = Client(server.url)
        self.client.session.headers["User-Agent"] = "Mozilla/5.0"

    def get(self, path: str, **options: Any) -> Page:
        return Page(self.client.get(path, **options))

    def log_in(self, username: str, password: str = PASSWORD) -> requests.Response:
        fields = self.get("/console/login").form("/console/login").fields
        fields |= {"username": username, "password": password}
        self._take_cookies()
        response = self.client.post("/console/login", data=fields)
        self._take_cookies()
        return response

    def _take_cookies(self) -> None:
        for cookie in self.client.session.cookies:
            cookie.secure = False  # a proxy would be there, with an issuer that is https

    def post(self, path: str, fields: dict[str, str], **options: Any) -> requests.Response:
        """Send a form with the token of the session."""
        token = {"csrf_token": self.token()}
        return self.client.post(path, data={**token, **fields}, **options)

    def token(self) -> str:
        return self.get("/console/explain").form("/console/logout").fields["csrf_token"]

    def act(self, path: str, password: str | None = None, **fields: str) -> Page:
        """Send a form, confirm what it asks to be confirmed, and go where it leads."""
        response = self.post(path, fields)
        if response.status_code == 200:
            page = Page(response)
            again = [form for form in page.forms if form.fields.get("confirm") == "yes"]
            if again:
                shown = again[0].fields
                for name in ("password_again", "current_password"):
                    if name in shown:
                        assert password is not None, page.text
                        shown[name] = password
                response = self.client.post(path, data=shown)
        if response.status_code == 303:
            return self.get(response.headers["Location"])
        return Page(response)

    def is_logged_in(self) -> bool:
        status = self.client.get("/me").status_code
        assert status in (200, 303)
        return status == 200


def logged_in(server: LiveServer, username: str, password: str = PASSWORD) -> Browser:
    browser = Browser(server)
    response = browser.log_in(username, password)
    assert response.status_code == 303, response.text
    return browser


def enrol(browser: Browser, password: str = PASSWORD) -> pyotp.TOTP:
    """Add an authenticator app; the server has the clock of this machine."""
    fields = {"name": "Phone", "confirm": "yes", "current_password": password}
    offer = Page(browser.post("/me/second-factors/app", fields))
    match = re.search(r"Secret: ([A-Z2-7 ]+[A-Z2-7]) ", offer.text)
    assert match is not None, offer.text
    phone = pyotp.TOTP(match[1].replace(" ", ""))
    fields = offer.form("/app/confirm").fields | {"code": phone.now()}
    page = Page(browser.client.post("/me/second-factors/app/confirm", data=fields))
    assert page.h1 == "Recovery codes"
    browser._take_cookies()  # the secret of the session is a new one
    return phone
