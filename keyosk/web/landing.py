"""The root: links to everything else, for people and for programs."""

import base64
import hashlib
from collections.abc import Iterable
from html import escape
from string import Template
from typing import Any, Final

from flask import Response, current_app, request

from keyosk.web import addresses
from keyosk.web.documentation import OWN_HEADERS
from keyosk.web.endpoint import Endpoint
from keyosk.web.negotiation import prefers
from keyosk.web.operations import operation
from keyosk.web.responses import json_response, public_response
from keyosk.web.standard_schemas import IndexSchema

_HTML: Final = "text/html"
#: The links for programs, by their names in the metadata if they have one.
_INDEX: Final = {
    "openapi": "/openapi.json",
    "docs": "/docs",
    "metadata": "/.well-known/oauth-authorization-server",
    "token_endpoint": "/auth/token",
    "jwks_uri": "/.well-known/jwks.json",
    "health": "/health/ready",
    "console": "/console",
}
#: The links for people, in order: path, name and content.
_LINKS: Final = (
    ("/console", "Console", "manage accounts, API keys and services"),
    ("/docs", "API documentation", "every endpoint, and a form to try it"),
    ("/openapi.json", "OpenAPI description", "the same for programs"),
    ("/.well-known/oauth-authorization-server", "Metadata", "for OAuth libraries"),
    ("/.well-known/jwks.json", "Public keys", "for services that verify tokens"),
    ("/health/ready", "Status", "whether Keyosk and its database respond"),
)
_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 4rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; }
ul { list-style: none; padding: 0; }
li { margin: .75rem 0; }
a { font-weight: 600; }
code { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
"""
_PAGE: Final = Template(
    f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Keyosk</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Keyosk$version</h1>
<p>One login for a set of services. Programs get a token at <code>$token</code>.</p>
<ul>
$links
</ul>
</main>
</body>
</html>
"""
)
# SECURITY: only the style sheet with this hash; no script and nothing from another origin.
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


class IndexResource(Endpoint):
    """Where to go from here."""

    @operation(response=IndexSchema, media_types={_HTML: "<!doctype html>..."}, has_etag=True)
    def get(self) -> Response:
        """Return the main addresses; a page of them to browsers."""
        there = {rule.rule for rule in current_app.url_map.iter_rules()}
        if self.installation.has_console:  # a separate application, in front of this one
            there.add("/console")
        if prefers(_HTML):
            request.environ[OWN_HEADERS] = {"Content-Security-Policy": _POLICY}
            page = _page(there, self.installation.version)
            response = Response(page, content_type=f"{_HTML}; charset=utf-8")
        else:
            response = json_response(_index(there, self.installation.version))
        response.headers["Vary"] = "Accept"
        return public_response(response)


def _index(there: Iterable[str], version: str | None) -> dict[str, Any]:
    version_field = {} if version is None else {"version": version}
    links = {name: addresses.url(path) for name, path in _INDEX.items() if path in there}
    return {"name": "Keyosk", **version_field, "issuer": addresses.url(""), "links": links}


def _page(there: Iterable[str], version: str | None) -> str:
    links = "\n".join(
        f'<li><a href="{escape(addresses.url(path))}">{name}</a><br>{what}</li>'
        for path, name, what in _LINKS
        if path in there
    )
    return _PAGE.substitute(
        version="" if version is None else f" {escape(version)}",
        token=escape(addresses.url("/auth/token")),
        links=links,
    )
