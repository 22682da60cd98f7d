"""The audit log: changes, and events that endanger the installation.

A row is written in the transaction of the change, so that both are committed or neither. Rows form
a hash chain: sealing gives each row its place in the chain and a hash over itself and the hash
before. A row is sealed shortly after it was written, so that writers do not wait for one another.
Checkpoints, signed by the signing key of tokens, prove the state of the chain at a time: anyone
with the public keys can detect a row that was changed, removed or added (``audit_verification``).
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

from keyosk import clocks, masking
from keyosk.audit_chain import GENESIS, hashing, row_hash
from keyosk.errors import Unavailable
from keyosk.ids import new_id
from keyosk.model import (
    CHECKPOINTS_PATH,
    AuditAction,
    AuditRow,
    Caller,
    Checkpoint,
    ListQuery,
    LoginFailure,
    Refusal,
)
from keyosk.storage.audit import AuditStore, SimilarRows
from keyosk.storage.database import Database

_log = logging.getLogger(__name__)

#: The ``typ`` of a checkpoint's signature, so that nobody takes it for a token.
CHECKPOINT_TYPE: Final = "keyosk-checkpoint+jwt"
#: The action of the row that records a pruning.
PRUNED: Final[AuditAction] = "audit.prune"
#: The most rows that a page of a list with several filters looks at.
LOOKED_AT: Final = 10_000
_BATCH: Final = 500
_CHECKPOINT_ROWS: Final = 1_000
_CHECKPOINT_SECONDS: Final = 3_600
_MINUTE: Final = 60
#: The first refusals of an account in a minute have a row each; the others share one.
_SHOWN: Final = 10
#: Rows that are deleted in one transaction.
_AT_ONCE: Final = 2_000


class DocumentSigner(Protocol):
    """Signs documents that are not tokens, and verifies what it signed."""

    def sign(self, claims: Mapping[str, Any], *, typ: str, path: str) -> str:
        """Return a JWS over ``claims`` by the active key, with issuer and ``path`` as audience."""

    def verify(self, text: str, *, typ: str) -> dict[str, Any]:
        """Return the claims of a document that this installation signed. Raises ``BadToken``."""


class Audit:
    """Writes, seals, lists and prunes the log."""

    def __init__(
        self,
        database: Database,
        store: AuditStore,
        documents: DocumentSigner,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._store = store
        self._counts = store.counts
        self._documents = documents
        self._clock = clock

    def record(
        self,
        caller: Caller,
        action: AuditAction,
        target: str | None,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        outcome: str = "done",
    ) -> None:
        """Write one row, in the transaction of the change that it records."""
        self._store.add(
            [self._row(caller, action, target, before=before, after=after, outcome=outcome)]
        )

    def record_all(
        self, caller: Caller, action: AuditAction, targets: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Write a row for each of many targets, with its state after the change.

        They are sealed at the end of the transaction, because reading them again later would take
        longer than everything else. Other sealing waits for that; other writing does not.
        """
        if targets:
            like = self._row(caller, action, None, before=None, after=None, outcome="done")
            self._database.at_end(self._add_sealed, (like, targets))

    def refuse(
        self,
        caller: Caller,
        action: AuditAction,
        target: str | None,
        *,
        after: Mapping[str, Any],
        account: str | None = None,
    ) -> None:
        """Record a refusal, in such a way that a flood of refusals adds few rows.

        The first few of an account in a minute have a row each; the others become one row for each
        credential when the minute is over. ``account``: the id, if not that of the caller.
        """
        row = self._row(caller, action, target, before=None, after=after, outcome="refused")
        refusal = Refusal(
            account=account or caller.account_id or "",
            credential=row.credential or "",
            action=action,
            minute=row.time // _MINUTE * _MINUTE,
            count=1,
            sample={"actor": row.actor, "actor_name": row.actor_name, "address": row.address},
        )
        with self._database.transaction():
            if self._counts.show_refusal(refusal, most=_SHOWN):
                self._store.add([row])
            else:
                self._counts.count_refusal(refusal)

    def note_refused_request(self, caller: Caller, path: str, *, method: str, reason: str) -> None:
        """Record that a rule refused a request, if the database can be written to."""
        after = {"method": method, "reason": masking.mask(reason)}
        try:
            self.refuse(caller, "rule.refused", path, after=after)
        except Unavailable:
            _log.warning("a refusal was not recorded: the database is not available")

    def count_failed_login(
        self, account_id: str | None, address: str | None, *, throttled: bool = False
    ) -> None:
        """Count a failed login, in such a way that a flood of them adds few rows.

        Counts are kept per account, address and minute; they become rows when the minute is over.
        ``throttled``: it was refused without a check. Only the fact that there were some is kept,
        so that a refusal costs no write.
        """
        minute = int(self._clock()) // _MINUTE * _MINUTE
        self._counts.count_failure(
            LoginFailure(
                account=account_id or "",
                address=address or "",
                minute=minute,
                count=0 if throttled else 1,
                throttled=throttled,
            )
        )

    def failed_logins(self, since: int, most: int) -> tuple[list[LoginFailure], bool]:
        """Return the counts of failed logins since a time, newest first.

        They include the current minute. The flag tells whether these are all.
        """
        self.seal()
        by_place: dict[tuple[str, str, int], LoginFailure] = {}
        is_complete = True
        for failure in self._counts.failures(most):
            by_place[failure.account, failure.address, failure.minute] = failure
        for action in ("login.failed", "login.throttled", "second_factor.failed"):
            rows = self._store.page(
                ListQuery(limit=most, sort="sequence", descending=True, filters={"action": action})
            )
            is_complete &= len(rows) < most or rows[-1].time < since
            for row in rows:
                # A row for several failed second factors names the account as its actor.
                account = (row.target or "").removeprefix("account/") or row.actor or ""
                key = (account, row.address or "", row.time // _MINUTE * _MINUTE)
                counted = by_place.get(key) or LoginFailure(
                    account=key[0], address=key[1], minute=key[2], count=0
                )
                by_place[key] = _added(counted, action, row.after or {})
        kept = [
            failure for failure in by_place.values() if failure.minute >= since // _MINUTE * _MINUTE
        ]
        return sorted(kept, key=lambda failure: -failure.minute), is_complete

    def seal(self) -> None:
        """Give all new rows their places in the chain, and sign a checkpoint if one is due."""
        self._take_failures()
        self._seal_waiting()
        self._checkpoint()

    def seal_quietly(self) -> None:
        """Call ``seal`` after a response; what fails now is done at the next call."""
        try:
            self.seal()
        except Unavailable:
            return

    def page(self, list_query: ListQuery) -> list[AuditRow]:
        """Return a page of rows, including the newest."""
        self.seal()
        return self._store.page(list_query)

    def horizon(self, list_query: ListQuery) -> AuditRow | None:
        """Return the last row that a page looks at; ``None`` if it looks at all the rest."""
        return self._store.horizon(list_query, looked_at=LOOKED_AT)

    def count(self, list_query: ListQuery) -> int:
        """Return the number of rows that pass the filters of a list."""
        return self._store.count(list_query)

    def export(self, list_query: ListQuery) -> Iterator[list[AuditRow]]:
        """Yield all rows of a list, page by page, up to the row that is the last one now."""
        self.seal()
        last = self._store.last()
        if last is None:
            return
        after: tuple[Any, Any] | None = None
        while True:
            page = self._store.page(replace(list_query, limit=_BATCH, after=after))
            kept = [row for row in page if (row.sequence or 0) <= (last.sequence or 0)]
            yield kept
            if len(page) < _BATCH or (list_query.sort == "sequence" and len(kept) < len(page)):
                return
            after = (getattr(page[-1], list_query.sort), page[-1].sequence)

    def prune(self, caller: Caller, before: int) -> int:
        """Delete rows older than ``before``, up to a checkpoint, where the chain continues.

        A row of the log records the pruning before anything is deleted. Rows are deleted in small
        parts, so that others can write meanwhile.
        """
        self.seal()
        self._checkpoint(due=True)
        place, rows = self._store.prunable(before)
        if not rows:
            return 0
        with self._database.transaction():
            self.record(caller, PRUNED, None, after={"sequence": place, "rows": rows})
        self.seal()
        self._checkpoint(due=True)
        deleted = 0
        while True:
            began = time.perf_counter()
            part = self._store.prune(place, most=_AT_ONCE)
            if not part:
                return deleted
            deleted += part
            # A pause, so that others who wait for SQLite's write lock get it.
            time.sleep(time.perf_counter() - began)

    def _row(
        self,
        caller: Caller,
        action: AuditAction,
        target: str | None,
        *,
        before: Mapping[str, Any] | None,
        after: Mapping[str, Any] | None,
        outcome: str,
    ) -> AuditRow:
        return AuditRow(
            id=new_id(),
            time=int(self._clock()),
            actor=caller.account_id,
            actor_name=caller.username,
            credential=caller.credential_id or caller.credential,
            address=caller.address,
            request_id=caller.request_id,
            action=action,
            target=None if target is None else masking.mask_path(target),
            before=before,
            after=after,
            outcome=outcome,
            via=caller.via,
        )

    def _add_sealed(self, changes: Collection[SimilarRows]) -> None:
        self._store.lock()
        self._seal_waiting()
        self._store.add_many_sealed(changes, hashing, GENESIS)

    def _seal_waiting(self) -> None:
        while self._store.seal(row_hash, GENESIS, limit=_BATCH) == _BATCH:
            continue

    def _take_failures(self) -> None:
        minute = int(self._clock()) // _MINUTE * _MINUTE
        with self._database.transaction():
            self._store.lock()
            failures = self._counts.take_failures(minute)
            self._store.add([row for failure in failures for row in _failure_rows(failure)])
            self._store.add(
                [_refusal_row(refusal) for refusal in self._counts.take_refusals(minute)]
            )

    def _checkpoint(self, *, due: bool = False) -> None:
        last = self._store.last()
        if last is None or last.sequence is None or last.hash is None:
            return
        now = int(self._clock())
        newest = self._store.newest_checkpoint()
        if newest is not None and newest.sequence == last.sequence:
            return
        due = (
            due
            or newest is None
            or last.sequence - newest.sequence >= _CHECKPOINT_ROWS
            or not clocks.is_recent(newest.time, now, _CHECKPOINT_SECONDS)
        )
        if due:
            claims = {"sequence": last.sequence, "hash": last.hash, "iat": now}
            signature = self._documents.sign(claims, typ=CHECKPOINT_TYPE, path=CHECKPOINTS_PATH)
            self._store.add_checkpoint(
                Checkpoint(sequence=last.sequence, hash=last.hash, time=now, signature=signature)
            )


def changed_fields(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields that differ between two states of an object."""
    names = [name for name in after if before.get(name) != after[name]]
    return {name: before.get(name) for name in names}, {name: after[name] for name in names}


def _failure_rows(failure: LoginFailure) -> list[AuditRow]:
    row = AuditRow(
        id=new_id(),
        time=failure.minute,
        actor=None,
        actor_name="",
        credential=None,
        address=failure.address or None,
        request_id=None,
        action="login.failed",
        target=f"account/{failure.account}" if failure.account else None,
        before=None,
        after={"count": failure.count, "seconds": _MINUTE},
        outcome="refused",
    )
    rows = [row] if failure.count else []
    if failure.throttled:
        after = {"seconds": _MINUTE}
        rows.append(replace(row, id=new_id(), action="login.throttled", after=after))
    return rows


def _added(counted: LoginFailure, action: str, after: Mapping[str, Any]) -> LoginFailure:
    """Return a count with the failed logins of a row added."""
    match action:
        case "second_factor.failed":
            number = int(after.get("count", 1))
            return replace(counted, second_factors=counted.second_factors + number)
        case "login.throttled":
            return replace(counted, throttled=True)
        case _:
            return replace(counted, count=counted.count + int(after.get("count", 0)))


def _refusal_row(refusal: Refusal) -> AuditRow:
    return AuditRow(
        id=new_id(),
        time=refusal.minute,
        actor=refusal.sample["actor"],
        actor_name=refusal.sample["actor_name"],
        credential=refusal.credential or None,
        address=refusal.sample["address"],
        request_id=None,
        action=refusal.action,
        target=None if refusal.sample["actor"] else f"account/{refusal.account}",
        before=None,
        after={"count": refusal.count, "seconds": _MINUTE},
        outcome="refused",
    )
