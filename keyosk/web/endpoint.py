"""The base class of all resources."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final

from flask import Response, g
from flask_restful import Resource

from keyosk.idempotency import Outcome
from keyosk.installation import Installation
from keyosk.model import ListQuery
from keyosk.web import bodies, operations, paging, preconditions, queries
from keyosk.web.current import current_g, current_request
from keyosk.web.operations import Operation
from keyosk.web.responses import json_response
from keyosk.web.schemas import StrictSchema

#: The header with the key of a request that may be sent again.
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
_READING: Final = ("GET", "HEAD")
_KEPT_HEADERS: Final = ("Location", "ETag", "Effective-At-Latest")

#: A parameter and a header for /openapi.json.
PARAMETERS: Final[Mapping[str, dict[str, Any]]] = {
    IDEMPOTENCY_KEY: {
        "in": "header",
        "description": "Any text. The same request with the same key within 24 hours returns the "
        "first response; a secret is in it for ten minutes.",
        "schema": {
            "type": "string",
            "pattern": "^[!-~]{1,255}$",
            "examples": ["3f4f6f1f-7a10"],
        },
    },
}
HEADERS: Final[Mapping[str, dict[str, Any]]] = {
    "Idempotency-Replayed": {
        "description": "`true` if this is the response to an earlier request with the same key.",
        "schema": {"type": "string", "enum": ["true"]},
    },
}


class Endpoint(Resource):
    """A resource of an installation; each request gets a new instance."""

    #: Whether its POST supports an Idempotency-Key.
    repeatable = True
    #: Whether GET selects a representation, to which preconditions apply (RFC 9110 13.2.1).
    conditional = True
    #: The declaration of the method, if a caller writes.
    _write: Operation | None = None

    def __init__(self, installation: Installation) -> None:
        self.installation = installation

    def dispatch_request(self, *args: Any, **kwargs: Any) -> Response:
        """Handle the request, or repeat the response that an earlier one got."""
        self.request = current_request()
        self._has_caller = "caller" in current_g()
        if self._has_caller and self.request.method not in _READING:
            self._write = operations.of(type(self), self.request.method)
            self._refuse_undeclared(self._write)
        self.prepare(**kwargs)
        may_repeat = self.request.method == "POST" and self._has_caller and self.repeatable
        if may_repeat and IDEMPOTENCY_KEY in self.request.headers:
            return self._once(*args, **kwargs)
        return self._respond(*args, **kwargs)

    def prepare(self, **_: str) -> None:
        """Do slow work that changes nothing, before any lock is held.

        It gets the parameters of the path, as the methods do.
        """

    def load(self) -> dict[str, Any]:
        """Return the body of the request, validated by the declared schema. Raises ``Invalid``."""
        operation = operations.of(type(self), self.request.method)
        assert operation.body is not None
        return bodies.load(operation.body(), optional=operation.optional)

    def page(
        self,
        read: Callable[[ListQuery], Sequence[Any]],
        shape: Callable[[Any], dict[str, Any]],
        count: Callable[[ListQuery], int],
        *,
        horizon: Callable[[ListQuery], Any] | None = None,
    ) -> Response:
        """Return a page of the list that GET declares (``paging.page``). Raises ``Invalid``."""
        lists = operations.of(type(self), "GET").lists
        assert lists is not None
        return paging.page(lists, read, shape, count=count, horizon=horizon)

    def page_with_owners(
        self,
        read: Callable[[ListQuery], Sequence[Any]],
        shape: Callable[[Any], dict[str, Any]],
        count: Callable[[ListQuery], int],
    ) -> Response:
        """Return a page of objects of several accounts, each with its account. Raises ``Invalid``.

        The usernames of a page are read by one query.
        """
        usernames: dict[str, str] = {}

        def read_with_owners(list_query: ListQuery) -> Sequence[Any]:
            items = read(list_query)
            accounts = self.installation.accounts
            usernames.update(accounts.usernames({item.account_id for item in items}))
            return items

        def shape_with_owner(item: Any) -> dict[str, Any]:
            owner = {"account_id": item.account_id, "username": usernames.get(item.account_id)}
            return {**owner, **shape(item)}

        return self.page(read_with_owners, shape_with_owner, count)

    def _refuse_undeclared(self, operation: Operation) -> None:
        """Refuse a body or a query that the method does not declare. Raises ``Invalid``; 400, 415.

        Otherwise a caller would believe that it was honoured: ``dry_run``, say. OAuth's endpoints,
        which have no ``caller``, ignore what they do not know (RFC 6749 section 3.2).
        """
        if operation.body is None:
            bodies.load(StrictSchema(), optional=True)
        if operation.query is None and not operation.needs_force and self.request.query_string:
            queries.load(StrictSchema)

    def _respond(self, *args: Any, **kwargs: Any) -> Response:
        method = self.request.method
        # An object that has no entity tag, or a new one.
        if self._write is not None and (method == "POST" or not self._write.has_etag):
            preconditions.check_untagged()
        # As in Flask-RESTful, without representations, because every method returns a response.
        handle = getattr(self, "get" if method == "HEAD" else method.lower())
        response: Response = handle(*args, **kwargs)
        selects = self.conditional and method in _READING
        return preconditions.evaluate(response, self.request) if selects else response

    def _once(self, *args: Any, **kwargs: Any) -> Response:
        def first() -> Outcome:
            response = self._respond(*args, **kwargs)
            headers = {
                name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers
            }
            details = {"status": response.status_code, "headers": headers}
            return Outcome(json.loads(response.get_data() or b"{}"), details)

        request = self.request
        sent = "\n".join((request.method, request.full_path)).encode() + b"\n" + request.get_data()
        outcome = self.installation.idempotency.once(
            g.caller, request.headers[IDEMPOTENCY_KEY], sent, run=first
        )
        response = json_response(outcome.body, outcome.details["status"])
        response.headers.extend(outcome.details["headers"])
        if outcome.repeated:
            response.headers["Idempotency-Replayed"] = "true"
        return response


class EndpointWithCleanup(Endpoint):
    """A resource whose ``prepare`` opens something that must be closed after the request.

    ``prepare`` enters it in ``exit_stack``, which is closed once the method has returned or raised.
    """

    def dispatch_request(self, *args: Any, **kwargs: Any) -> Response:
        """Handle the request as any other."""
        with ExitStack() as self.exit_stack:
            return super().dispatch_request(*args, **kwargs)
