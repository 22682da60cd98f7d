"""The published keys, which require no login and no database."""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from flask import Response, g
from werkzeug.datastructures import MultiDict

from keyosk.credentials.presented import Credentials
from keyosk.errors import Invalid, NotFound, Unavailable
from keyosk.keys.key_set import Document, KeySet
from keyosk.keys.signing_keys import FRESH, SPREAD
from keyosk.web import authorization
from keyosk.web.endpoint import Endpoint
from keyosk.web.operations import operation
from keyosk.web.responses import WholeResponse, public_response
from keyosk.web.standard_schemas import JwkSetSchema, JwksQuery

_PEM: Final = "application/x-pem-file"
_EXAMPLE: Final = "-----BEGIN PUBLIC KEY-----\nMFkw...\n-----END PUBLIC KEY-----\n"
#: As the server has it: a moment after the client sent the request, by ``time.monotonic``.
_ARRIVED: Final = "server.arrived"
_MAX_AGE: Final = 300  # seconds that a verifier may keep the set
#: For how long a cache may return the set while Keyosk cannot (``revocations.KEY_ENTRY_LIVES``).
_IF_ERROR: Final = "stale-if-error=86400"
_THUMBPRINT: Final = re.compile(r"[A-Za-z0-9_-]{43}")


class JwksResource(Endpoint):
    """The JWK set (RFC 7517 section 5)."""

    @operation(
        query=JwksQuery,
        response=JwkSetSchema,
        media_types={_PEM: _EXAMPLE},
        has_etag=True,
        raises=(Unavailable, Invalid),
    )
    def get(self) -> Response:
        """Return the published keys; the key that signs now comes first.

        With ``format=pem``, only the key that signs now is returned, as PEM. ``service``, or an
        API key or token of the account that acts for a service, identifies the service: a rotation
        can wait for it.
        """
        # Nothing is taken apart that most do not send: this is a hot path.
        request = self.request
        keys, confirmed = self.installation.signing_keys.confirmed(request.environ.get(_ARRIVED))
        if request.query_string or "HTTP_AUTHORIZATION" in request.environ:
            if _parameter(request.args, "format", ("jwk", "pem")) == "pem":
                return _pem(keys.public_pem(keys.default.kid), confirmed=confirmed)
            self._record(request.args.getlist("service"), keys.document.kids)
        return self.set_response(keys, keys.document, confirmed=confirmed)

    def set_response(self, keys: KeySet, document: Document, *, confirmed: bool) -> Response:
        """Return a key set, with how long it may be cached.

        Args:
            keys: All keys.
            document: The keys to return.
            confirmed: Whether the database confirmed both just now.
        """
        until_change = keys.changes_at - int(self.installation.clock())
        # A rotation may be requested at any time, so no verifier may keep the set for longer than
        # the next key is published before it signs.
        until_rotation = self.installation.rotation.policy.publish_ahead - SPREAD
        # SECURITY: a key that was just declared compromised elsewhere may still be in the set. So
        # caches ask again after a second (RFC 9111 section 4.2), and drop it with the first answer
        # that they get. They keep it instead of an error (RFC 5861 section 4) as long as any other:
        # without it they would return the error, or an older set, which is no safer.
        max_age = _MAX_AGE if confirmed else int(FRESH)
        response = WholeResponse(document.text, content_type="application/json")
        response.headers["Cache-Control"] = (
            f"public, max-age={max(0, min(max_age, until_change, until_rotation))}, {_IF_ERROR}"
        )
        response.set_etag(document.digest)
        return response

    def _record(self, service_names: Sequence[str], kids: tuple[str, ...]) -> None:
        """Record the services that fetch, if they identify themselves: by name, or by a login.

        The response does not depend on a login, so it does not wait for the database that a login
        needs.
        """
        key_fetches = self.installation.key_fetches
        for service in service_names:
            key_fetches.record(service, kids)
        credentials = authorization.credentials()
        if credentials.token is not None or any(each.is_api_key for each in credentials.candidates):
            login = partial(
                self._services_of_login, credentials, address=g.address, request_id=g.request_id
            )
            key_fetches.record_login(login, kids)

    def _services_of_login(
        self, credentials: Credentials, *, address: str | None, request_id: str
    ) -> Iterator[str]:
        """Yield the services that a login acts for. Raises ``KeyoskError`` if it proves nothing."""
        if credentials.token is not None:
            account = self.installation.tokens.verify(credentials.token, audience=None).account_id
        elif credentials.scheme == "basic":
            # No password: everybody could have Keyosk hash for a document that is public.
            api_keys = [each for each in credentials.candidates if each.is_api_key]
            authentication = self.installation.authentication
            principal = authentication.by_secret(api_keys, address=address)
            authentication.record_use(principal, address=address, request_id=request_id)
            account = principal.account_id
        else:
            return
        for policy in self.installation.services.policies_acted_for(account):
            yield policy.name


class ServiceJwksResource(JwksResource):
    """The JWK set for one service."""

    @operation(response=JwkSetSchema, has_etag=True, raises=(Unavailable,))
    def get(self, service: str) -> Response:  # type: ignore[override]  # one more in the address
        """Return the common key set, or the service's own if its algorithm is not in it."""
        algorithm, is_known = self.installation.service_algorithms.of(service)
        keys, confirmed = self.installation.signing_keys.confirmed(
            self.request.environ.get(_ARRIVED)
        )
        document = keys.document_of(algorithm)
        self.installation.key_fetches.record(service, document.kids)
        return self.set_response(keys, document, confirmed=confirmed and is_known)


class PemResource(Endpoint):
    """One published key, for verifiers that read files."""

    @operation(media_types={_PEM: _EXAMPLE}, has_etag=True, raises=(Unavailable,))
    def get(self, kid: str) -> Response:
        """Return the key as PEM (RFC 7468)."""
        if not _THUMBPRINT.fullmatch(kid):
            raise NotFound("There is no such published key.")
        keys, confirmed = self.installation.signing_keys.confirmed(
            self.request.environ.get(_ARRIVED)
        )
        return _pem(keys.public_pem(kid), confirmed=confirmed)


def _pem(text: str, *, confirmed: bool) -> Response:
    response = public_response(Response(text, mimetype=_PEM))
    if not confirmed:
        response.headers["Cache-Control"] = f"public, max-age={int(FRESH)}"
    return response


def _parameter(query: MultiDict[str, str], name: str, values: tuple[str, ...]) -> str | None:
    given = query.getlist(name)
    if not given:
        return None
    if len(given) > 1 or given[0] not in values:
        raise Invalid.field(name, "must be one of " + ", ".join(values))
    return given[0]
