"""The responses of an operation: statuses, bodies and headers."""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from apispec import APISpec

from keyosk import errors
from keyosk.web.access import Access
from keyosk.web.errors import SENTENCES, STATUS, oauth_code
from keyosk.web.openapi.schemas import SchemasPlugin
from keyosk.web.operations import Operation
from keyosk.web.route import Route
from keyosk.web.schemas import REQUEST_ID, StrictSchema
from keyosk.web.standard_schemas import OAuthErrorSchema, ProblemSchema

_Kind = type[errors.KeyoskError]

#: How access decisions can fail.
_LOGIN: Final = (errors.BadCredentials, errors.Forbidden, errors.Throttled, errors.Unavailable)
_CALLER: Final = (*_LOGIN, errors.BadToken, errors.InsufficientScope)
_HEADERS: Final = {
    401: "WWW-Authenticate",
    403: "WWW-Authenticate",
    429: "Retry-After",
    503: "Retry-After",
}
#: What the server answers before the path matters: a problem at OAuth's endpoints too.
_BY_SERVER: Final = (413, 414)
_WITH_FAULTS: Final = (errors.Invalid.code, errors.Conflict.code)
_WRITES: Final = ("PUT", "PATCH", "DELETE")
#: Every response has it.
REQUEST_ID_HEADER: Final = {"X-Request-Id": {"description": "The id of the request in the log."}}


@dataclass(frozen=True, slots=True)
class Failure:
    """One way in which a call fails; ``word`` is the error code of OAuth."""

    code: str
    status: int
    sentence: str
    word: str

    @classmethod
    def of(cls, kind: _Kind) -> "Failure":
        """Return the failure that one of our errors is."""
        status = int(STATUS[kind])
        return cls(kind.code, status, _sentence(kind), oauth_code(status, kind))


#: Failures that no error of ours stands for.
_OTHERS: Final = tuple(
    Failure(code, status, SENTENCES[code], oauth_code(status, Exception))
    for code, status in (
        ("bad_request", 400),
        ("body_too_large", 413),
        ("request_line_too_long", 414),
        ("unsupported_media_type", 415),
        ("internal_error", 500),
    )
)


@dataclass(frozen=True, slots=True)
class Call:
    """One method of one route, with its declaration."""

    route: Route
    method: str
    access: Access
    operation: Operation

    @property
    def path_parameters(self) -> list[str]:
        """The names of the parameters in the path."""
        return [part.partition(">")[0] for part in self.route.path.split("<")[1:]]

    @property
    def is_conditional(self) -> bool:
        """Whether it reads or changes something that has an entity tag."""
        return self.operation.has_etag and self.method in ("GET", *_WRITES)

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be sent again under an Idempotency-Key."""
        needs_caller = not self.access.anyone
        return needs_caller and self.method == "POST" and self.route.resource.repeatable

    @property
    def refuses_a_body(self) -> bool:
        """Whether it is a write that refuses each body but an empty one."""
        return self.operation.body is None and self.method != "GET" and not self.access.anyone

    @property
    def has_lines(self) -> bool:
        """Whether its body is JSON Lines of any size."""
        return self.route.streams and bool(self.operation.body_types)

    def statuses(self) -> list[int]:
        """Return the documented statuses of its responses."""
        success = (
            [int(self.operation.status)] if self.operation.status < HTTPStatus.BAD_REQUEST else []
        )
        if self.has_not_modified:
            success.append(int(HTTPStatus.NOT_MODIFIED))
        return [*success, *_by_status(self.failures())]

    @property
    def has_not_modified(self) -> bool:
        """Whether it can say that what the caller has is still right."""
        return self.operation.has_etag and self.method == "GET"

    def failures(self) -> list[Failure]:
        """Return the ways in which it can fail."""
        failures: set[_Kind] = set(self.operation.raises)
        others = {"internal_error"}
        has_rules = self.operation.lists is not None or self.operation.query is not None
        if self.access.by_login:
            failures.update(_LOGIN)
        elif not self.access.anyone:
            failures.update(_CALLER)
        if self.access.proof:
            failures.update((errors.ProofRequired, errors.Conflict))
        if self.path_parameters:
            failures.add(errors.NotFound)
        if self.path_parameters or has_rules:
            others.add("request_line_too_long")
        if self.is_conditional:
            failures.add(errors.Stale)
        if self.operation.needs_force:
            failures.update((errors.InUse, errors.Invalid))
        if not self.route.oauth and (has_rules or self.is_repeatable):
            failures.add(errors.Invalid)
        if self.operation.body is not None or self.refuses_a_body:
            others.add("bad_request")
            if not self.has_lines:
                others.add("body_too_large")
            if not self.route.oauth:
                others.add("unsupported_media_type")
                failures.add(errors.Invalid)
        # In the order of the tables, so that the document is the same in every process.
        return [
            *(Failure.of(kind) for kind in STATUS if kind in failures),
            *(failure for failure in _OTHERS if failure.code in others),
        ]


class Responses:
    """The responses of one document; those of failures are components."""

    def __init__(self, spec: APISpec, shapes: SchemasPlugin) -> None:
        self._components = spec.components
        self._shapes = shapes

    def of(self, call: Call) -> dict[str, Any]:
        """Return all responses of an operation, by status."""
        responses: dict[str, Any] = {}
        if call.operation.status < HTTPStatus.BAD_REQUEST:
            responses[str(int(call.operation.status))] = self._success(call)
        if call.has_not_modified:
            responses["304"] = {
                "description": "The object has an `ETag` that `If-None-Match` names.",
                "headers": _headers("ETag"),
            }
        for status, failures in _by_status(call.failures()).items():
            is_oauth = call.route.oauth and status not in _BY_SERVER
            responses[str(status)] = (
                self._oauth_error(failures) if is_oauth else self._problem(status)
            )
        return responses

    def _success(self, call: Call) -> dict[str, Any]:
        operation = call.operation
        headers = []
        if operation.has_etag and call.method != "DELETE":
            headers.append("ETag")
        if operation.status == HTTPStatus.CREATED:
            headers.append("Location")
        if operation.lists is not None:
            headers += ["Link", "X-Total-Count", "X-Total-Count-Capped"]
        if call.is_repeatable:
            headers.append("Idempotency-Replayed")
        content: dict[str, Any] = {}
        if operation.response is not None:
            shape = self._shapes.page if operation.lists is not None else self._shapes.reference
            content["application/json"] = {"schema": shape(operation.response)}
        for media_type, example in operation.media_types.items():
            content[media_type] = {"schema": {"type": "string"}, "example": example}
        response = {"description": operation.status.phrase, "headers": _headers(*headers)}
        return {**response, "content": content} if content else response

    def _oauth_error(self, failures: list[Failure]) -> dict[str, Any]:
        first = failures[0]
        example = {"error": first.word, "error_description": first.sentence}
        lines = [f"- `{failure.word}`: {failure.sentence}" for failure in failures]
        return self._error(
            first.status, lines, OAuthErrorSchema, media_type="application/json", example=example
        )

    def _problem(self, status: int) -> str:
        """The name of the response that all endpoints except OAuth's return with this status."""
        name = f"Problem{status}"
        if name not in self._components.responses:
            failures = _by_status([*map(Failure.of, STATUS), *_OTHERS])[status]
            first = failures[0]
            example: dict[str, Any] = {
                "type": "about:blank",
                "title": HTTPStatus(status).phrase,
                "status": status,
                "detail": first.sentence,
                "code": first.code,
                "request_id": REQUEST_ID,
            }
            if first.code in _WITH_FAULTS:
                example["errors"] = [{"field": "name", "message": first.sentence}]
            lines = [f"- `{failure.code}`: {failure.sentence}" for failure in failures]
            response = self._error(
                status, lines, ProblemSchema, media_type="application/problem+json", example=example
            )
            self._components.response(name, response)
        return name

    def _error(
        self,
        status: int,
        lines: list[str],
        shape: type[StrictSchema],
        *,
        media_type: str,
        example: dict[str, Any],
    ) -> dict[str, Any]:
        header = [_HEADERS[status]] if status in _HEADERS else []
        return {
            "description": "\n".join([f"{HTTPStatus(status).phrase}:\n", *lines]),
            "headers": _headers(*header),
            "content": {media_type: {"schema": self._shapes.reference(shape), "example": example}},
        }


def _by_status(failures: Iterable[Failure]) -> dict[int, list[Failure]]:
    by_status: dict[int, list[Failure]] = {}
    for failure in sorted(failures, key=lambda failure: failure.status):
        by_status.setdefault(failure.status, []).append(failure)
    return by_status


def _headers(*names: str) -> dict[str, str]:
    return {name: name for name in (*names, *REQUEST_ID_HEADER)}


def _sentence(kind: _Kind) -> str:
    text = inspect.getdoc(kind) or ""
    return " ".join(text.partition("\n\n")[0].replace("``", "`").split())
