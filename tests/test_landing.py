"""The root: a page for browsers, an index for programs."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path

import pytest

from live import Client, LiveServer
from tables import table

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
ISSUER = "https://login.example.org/auth"


@pytest.fixture(scope="module")
def anybody(server: LiveServer) -> Client:
    return server.client()


class Links(HTMLParser):
    """What a page links to and loads."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("href", "src", "action"):
                (self.targets if tag == "a" else self.loaded).append(value or "")


@table("accept", ["*/*", "application/json", "", "application/json, text/html;q=0.5"])
def test_programs_get_an_index_whose_addresses_exist(
    server: LiveServer, anybody: Client, accept: str
) -> None:
    response = anybody.get("/", headers={"Accept": accept})
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Vary"] == "Accept"
    index = response.json()
    assert (index["name"], index["issuer"]) == ("Keyosk", server.url)
    assert index["version"] == version("keyosk")
    links = index["links"]
    assert anybody.get(links.pop("token_endpoint")).status_code == 401
    assert {"openapi", "docs", "metadata", "jwks_uri", "health"} <= links.keys()
    for name, url in links.items():
        assert anybody.get(url).status_code in (200, 303), name


def test_browsers_get_a_page_that_loads_nothing_and_whose_links_work(
    server: LiveServer, anybody: Client
) -> None:
    response = anybody.get("/", headers={"Accept": BROWSER})
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["Vary"] == "Accept"
    page = Links(response.text)
    assert f"{server.url}/docs" in page.targets
    assert f"{server.url}/openapi.json" in page.targets
    for target in page.targets:
        assert target.startswith(f"{server.url}/")
        assert anybody.get(target).status_code in (200, 303), target
    assert page.loaded == ["data:,"]
    assert not page.tags & {"script", "form", "iframe", "img"}
    assert version("keyosk") in response.text


def test_the_policy_lets_the_one_style_sheet_in_and_nothing_else(anybody: Client) -> None:
    response = anybody.get("/", headers={"Accept": BROWSER})
    policy = dict(
        part.split(" ", 1) for part in response.headers["Content-Security-Policy"].split("; ")
    )
    [style] = re.findall(r"<style>(.*?)</style>", response.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


def test_head_options_and_others_are_as_everywhere(anybody: Client) -> None:
    for accept in ("*/*", BROWSER):
        got = anybody.get("/", headers={"Accept": accept})
        head = anybody.request("HEAD", "/", headers={"Accept": accept})
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["ETag"] == got.headers["ETag"]
        assert head.headers["Content-Type"] == got.headers["Content-Type"]
        again = anybody.get("/", headers={"Accept": accept, "If-None-Match": got.headers["ETag"]})
        assert again.status_code == 304
    options = anybody.request("OPTIONS", "/")
    assert (options.status_code, options.headers["Allow"]) == (204, "GET, HEAD, OPTIONS")
    assert anybody.post("/").status_code == 405


def test_the_version_can_be_left_out_and_links_begin_with_the_issuer(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'keyosk.db'}"
    with LiveServer(url, tmp_path, issuer=ISSUER, show_version="off") as server:
        anybody = server.client()
        index = anybody.get("/").json()
        assert "version" not in index
        assert index["links"]["openapi"] == f"{ISSUER}/openapi.json"
        page = anybody.get("/", headers={"Accept": BROWSER})
        assert version("keyosk") not in page.text
        assert all(target.startswith(ISSUER) for target in Links(page.text).targets)
        assert anybody.get("/openapi.json").json()["info"]["version"] == "hidden"
