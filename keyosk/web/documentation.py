"""The description of the API, for programs and for people."""

import json
from collections.abc import Iterable
from functools import cache, cached_property
from pathlib import Path
from typing import Final, cast

from flask import Response, current_app, request

from keyosk.errors import NotFound
from keyosk.web import addresses
from keyosk.web.endpoint import Endpoint
from keyosk.web.operations import operation
from keyosk.web.responses import public_response
from keyosk.web.route import Route
from keyosk.web.standard_schemas import DocumentSchema

#: The name of the ``Description`` among the application's extensions.
EXTENSION: Final = "keyosk.description"
#: Where the WSGI environment of a request may have headers in place of those of all responses.
OWN_HEADERS: Final = "keyosk.own_headers"

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Keyosk</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START: Final = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
"""
# SECURITY: a user of this page may enter an admin's credentials, so it loads and calls only this
# origin. Its icons are data: URLs in its style sheet.
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_JAVASCRIPT: Final = "text/javascript"
_CSS: Final = "text/css"
_ASSETS: Final = {
    "start.js": _JAVASCRIPT,
    "swagger-ui-bundle.js": _JAVASCRIPT,
    "swagger-ui.css": _CSS,
}


class Description:
    """The OpenAPI document of an application, built at its first use."""

    def __init__(self, routes: Iterable[Route], version: str | None) -> None:
        self._routes = tuple(routes)
        self._version = version

    @cached_property
    def text(self) -> bytes:
        """The document as JSON."""
        from keyosk.web import openapi  # noqa: PLC0415 - few processes are ever asked for it

        document = openapi.build(self._routes, addresses.url(""), self._version)
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        return text.encode() + b"\n"


class OpenApiResource(Endpoint):
    """The description of the API for programs."""

    @operation(response=DocumentSchema, has_etag=True)
    def get(self) -> Response:
        """Return this document (OpenAPI 3.1)."""
        description = cast(Description, current_app.extensions[EXTENSION])
        return public_response(Response(description.text, mimetype="application/json"))


class PageResource(Endpoint):
    """The description of the API for people."""

    @operation(media_types={"text/html": "<!doctype html>..."}, has_etag=True)
    def get(self) -> Response:
        """Return a page that shows this document and can send requests."""
        request.environ[OWN_HEADERS] = {"Content-Security-Policy": _POLICY}
        return public_response(Response(_PAGE, mimetype="text/html"))


class AssetResource(Endpoint):
    """Files of the documentation page."""

    @operation(media_types={_CSS: "body {}", _JAVASCRIPT: "void 0;"}, has_etag=True)
    def get(self, file: str) -> Response:
        """Return a file of the documentation page."""
        # SECURITY: a look-up among known names; the request is never part of a file path.
        if file not in _ASSETS:
            raise NotFound("The documentation page has no such file.")
        return public_response(Response(_asset(file), mimetype=_ASSETS[file]))


@cache
def _asset(file: str) -> bytes:
    if file == "start.js":
        return _START.encode()
    import flask_swagger_ui  # noqa: PLC0415 - for its files

    # Only Swagger UI's own files of the package are used: its pages contain inline scripts, which
    # need a weaker policy.
    return (Path(flask_swagger_ui.__file__).parent / "dist" / file).read_bytes()
