"""Requests that may be sent again: the second gets the response of the first.

A response is kept for a day, in the transaction of what it answers, so that neither is without the
other. A secret in it is repeated for ten minutes only, to the same caller, and lies encrypted
meanwhile.
"""

import json
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from keyosk import clocks
from keyosk.errors import Invalid, Unavailable
from keyosk.keys.material import Safe
from keyosk.metrics import Metrics
from keyosk.model import Caller
from keyosk.storage.database import Database
from keyosk.storage.idempotency import IdempotencyStore, StoredResponse

#: Seconds for which a response is kept, and the secret in it.
KEPT: Final = 86_400
SECRET_KEPT: Final = 600
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_SECRET: Final = "secret"  # noqa: S105 - the member's name


@dataclass(frozen=True, slots=True)
class Outcome:
    """A response to a request; ``repeated``: to an earlier one like it.

    ``details``: what whoever gives it needs besides the body, to give it again.
    """

    body: Mapping[str, Any]
    details: Mapping[str, Any]
    repeated: bool = False

    def __repr__(self) -> str:
        # SECURITY: the body may hold a secret.
        return f"Outcome(details={self.details}, repeated={self.repeated})"


class Idempotency:
    """Keeps responses by caller and key."""

    def __init__(
        self,
        database: Database,
        store: IdempotencyStore,
        safe: Safe,
        *,
        clock: Callable[[], float],
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = metrics or Metrics()
        self._database = database
        self._store = store
        self._safe = safe
        self._clock = clock
        # When this process kept secrets; first those that it may have kept before it was started.
        self._kept_since = deque([int(clock())])

    def once(self, by: Caller, key: str, request: bytes, *, run: Callable[[], Outcome]) -> Outcome:
        """The response that this caller's request has under ``key``; ``run`` gives the first.

        ``request``: all that makes the request what it is. Nothing is kept if ``run`` raises.
        Raises ``Invalid`` if the key is malformed or was used for another request, or by a login
        that had other rights.
        """
        if not _KEY.fullmatch(key):
            raise Invalid.field("Idempotency-Key", "must be 1 to 255 printable ASCII characters")
        now = int(self._clock())
        caller = f"{by.account_id}/{by.credential_id or by.credential}"
        # SECURITY: a keyed hash, as the request may hold a password. And with what the caller may
        # do, else a token that may do less would be shown what it could not have made.
        rights = " ".join([*sorted(by.scopes), "", *sorted(by.held)])
        fingerprint = self._safe.fingerprint(rights.encode() + b"\n" + request)
        with self._database.transaction():
            self._database.lock(_name(caller, key))
            self._forget(now)
            known = self._store.find(caller, key)
            if known is not None:
                return self._repeated(known, fingerprint)
            given = run()
            self._store.add(self._stored(given, caller, key, fingerprint=fingerprint, now=now))
        self._metrics.repeatable_request("first")
        return given

    def forget_quietly(self) -> None:
        """Take the secrets out that were kept long enough; for after a response.

        It asks the database only when a secret of this process is due.
        """
        now = int(self._clock())
        if not self._kept_since or 0 <= now - self._kept_since[0] < SECRET_KEPT:
            return
        try:
            self._forget(now)
        except Unavailable:
            return
        while self._kept_since and not 0 <= now - self._kept_since[0] < SECRET_KEPT:
            self._kept_since.popleft()

    def rewrap(self) -> int:
        """Encrypt all kept secrets under the first secret key; returns how many there are."""
        with self._database.transaction():
            kept = self._store.sealed()
            for response in kept:
                name = _name(response.caller, response.key)
                plain = self._safe.open(response.sealed or b"", name=name)
                self._store.reseal(response, self._safe.seal(plain, name=name))
        return len(kept)

    def _forget(self, now: int) -> None:
        # SECURITY: of a clock that was ahead, else a secret would be given out again until then.
        self._store.date_back(now, latest=now + clocks.APART)
        self._store.forget(responses_before=now - KEPT, secrets_before=now - SECRET_KEPT)

    def _repeated(self, known: StoredResponse, fingerprint: str) -> Outcome:
        if known.fingerprint != fingerprint:
            self._metrics.repeatable_request("refused")
            raise Invalid.field("Idempotency-Key", "was used for another request")
        self._metrics.repeatable_request("repeated")
        body = json.loads(known.body)
        if known.sealed is not None:
            body = json.loads(self._safe.open(known.sealed, name=_name(known.caller, known.key)))
        return Outcome(body, known.details, repeated=True)

    def _stored(
        self, outcome: Outcome, caller: str, key: str, *, fingerprint: str, now: int
    ) -> StoredResponse:
        sealed = None
        if _SECRET in outcome.body:
            plain = json.dumps(outcome.body).encode()
            sealed = self._safe.seal(plain, name=_name(caller, key))
            self._kept_since.append(now)
        return StoredResponse(
            caller=caller,
            key=key,
            fingerprint=fingerprint,
            details=outcome.details,
            body=json.dumps({n: value for n, value in outcome.body.items() if n != _SECRET}),
            sealed=sealed,
            created_at=now,
        )


def _name(caller: str, key: str) -> str:
    return f"idempotency/{caller}/{key}"
