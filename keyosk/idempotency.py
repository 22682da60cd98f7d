"""Idempotency keys: a request that is sent again gets the response of the first.

A response is stored for a day, in the transaction of the change, so that both are committed or
neither. A secret in it is repeated only for ten minutes and to the same caller, and is stored
encrypted.
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

#: Seconds for which a response is stored, and for which the secret in it is.
KEPT: Final = 86_400
SECRET_KEPT: Final = 600
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_SECRET: Final = "secret"  # noqa: S105 - the member's name


@dataclass(frozen=True, slots=True)
class Outcome:
    """A response; ``repeated``: it is the stored response to an earlier request.

    ``details``: what the web needs in addition to the body to send it again.
    """

    body: Mapping[str, Any]
    details: Mapping[str, Any]
    repeated: bool = False

    def __repr__(self) -> str:
        # SECURITY: the body may hold a secret.
        return f"Outcome(details={self.details}, repeated={self.repeated})"


class Idempotency:
    """Stores responses by caller and key."""

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
        # When this process stored secrets; the first entry is for those of an earlier process.
        self._kept_since = deque([int(clock())])

    def once(
        self, caller: Caller, key: str, request: bytes, *, run: Callable[[], Outcome]
    ) -> Outcome:
        """Return the response that is stored under ``key``, or store the one that ``run`` returns.

        ``request``: everything that distinguishes the request. Nothing is stored if ``run`` raises.
        Raises ``Invalid`` if the key is malformed or was used for another request, or by a login
        that had other rights.
        """
        if not _KEY.fullmatch(key):
            raise Invalid.field("Idempotency-Key", "must be 1 to 255 printable ASCII characters")
        now = int(self._clock())
        caller_id = f"{caller.account_id}/{caller.credential_id or caller.credential}"
        # SECURITY: a keyed hash, because the request may contain a password. It covers the rights
        # of the caller: a token with fewer rights must not see what it could not have created.
        rights = " ".join([*sorted(caller.scopes), "", *sorted(caller.held)])
        fingerprint = self._safe.fingerprint(rights.encode() + b"\n" + request)
        with self._database.transaction():
            self._database.lock(_name(caller_id, key))
            self._forget(now)
            stored = self._store.find(caller_id, key)
            if stored is not None:
                return self._repeated(stored, fingerprint)
            outcome = run()
            self._store.add(self._stored(outcome, caller_id, key, fingerprint=fingerprint, now=now))
        self._metrics.repeatable_request("first")
        return outcome

    def forget_quietly(self) -> None:
        """Delete the secrets that have expired. Call it after a response was sent.

        It queries the database only when a secret of this process has expired.
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
        """Encrypt all stored secrets under the first secret key; returns their number."""
        with self._database.transaction():
            kept = self._store.sealed()
            for response in kept:
                name = _name(response.caller, response.key)
                plain = self._safe.open(response.sealed or b"", name=name)
                self._store.reseal(response, self._safe.seal(plain, name=name))
        return len(kept)

    def _forget(self, now: int) -> None:
        # SECURITY: a clock that was ahead would let a secret be repeated for too long.
        self._store.date_back(now, latest=now + clocks.APART)
        self._store.forget(responses_before=now - KEPT, secrets_before=now - SECRET_KEPT)

    def _repeated(self, stored: StoredResponse, fingerprint: str) -> Outcome:
        if stored.fingerprint != fingerprint:
            self._metrics.repeatable_request("refused")
            raise Invalid.field("Idempotency-Key", "was used for another request")
        self._metrics.repeatable_request("repeated")
        body = json.loads(stored.body)
        if stored.sealed is not None:
            body = json.loads(self._safe.open(stored.sealed, name=_name(stored.caller, stored.key)))
        return Outcome(body, stored.details, repeated=True)

    def _stored(
        self, outcome: Outcome, caller_id: str, key: str, *, fingerprint: str, now: int
    ) -> StoredResponse:
        sealed = None
        if _SECRET in outcome.body:
            plain = json.dumps(outcome.body).encode()
            sealed = self._safe.seal(plain, name=_name(caller_id, key))
            self._kept_since.append(now)
        return StoredResponse(
            caller=caller_id,
            key=key,
            fingerprint=fingerprint,
            details=outcome.details,
            body=json.dumps({n: value for n, value in outcome.body.items() if n != _SECRET}),
            sealed=sealed,
            created_at=now,
        )


def _name(caller_id: str, key: str) -> str:
    return f"idempotency/{caller_id}/{key}"
