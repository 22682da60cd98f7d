"""Verification of the audit log: whether a row was changed, removed or added.

``audit`` writes the log; the hashes of its chain are in ``audit_chain``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from keyosk.audit import CHECKPOINT_TYPE, PRUNED, Audit, DocumentSigner
from keyosk.audit_chain import GENESIS, row_hash
from keyosk.errors import BadToken
from keyosk.model import Checkpoint
from keyosk.storage.audit import AuditStore

#: Rows that are read at once.
_BATCH: Final = 500
#: The most rows that ``chain`` verifies.
_TAIL: Final = 500


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of verifying the chain; ``fault`` is ``None`` if nothing was changed."""

    rows: int
    checkpoints: int
    fault: str | None


@dataclass(frozen=True, slots=True)
class Chain:
    """The state of the chain.

    Attributes:
        first: The place of the oldest row, if there is one.
        last: The place of the newest sealed row.
        checkpoint: The newest checkpoint.
        verified: The place up to which the rows after the checkpoint are unchanged.
        fault: What is wrong with the checkpoint or one of these rows.
    """

    first: int | None
    last: int
    checkpoint: Checkpoint | None
    verified: int
    fault: str | None


class AuditVerifier:
    """Verifies the chain, in whole or after its last checkpoint."""

    def __init__(self, audit: Audit, store: AuditStore, documents: DocumentSigner) -> None:
        self._audit = audit
        self._store = store
        self._documents = documents

    def chain(self) -> Chain:
        """Return the state of the chain, with its newest rows verified.

        Up to ``_TAIL`` rows since the last checkpoint are verified; ``verify`` verifies all.
        """
        self._audit.seal()
        last, newest = self._store.last(), self._store.newest_checkpoint()
        first = self._store.after(0, 1)
        end = last.sequence if last is not None and last.sequence is not None else 0
        start, previous = (newest.sequence, newest.hash) if newest else (0, GENESIS)
        fault = None
        if newest is not None and not self._is_signed(newest):
            fault = f"checkpoint {newest.sequence} is not ours"
        elif newest is not None and newest.sequence > end and first:
            fault = f"rows after {end} are missing"
        verified = start
        for row in self._store.after(start, _TAIL):
            if fault is None:
                previous = row_hash(row, previous)
                if row.sequence != verified + 1:
                    fault = f"row {verified + 1} is missing"
                elif row.hash != previous:
                    fault = f"row {row.sequence} was changed"
                else:
                    verified += 1
        return Chain(
            first=first[0].sequence if first else None,
            last=end,
            checkpoint=newest,
            verified=verified,
            fault=fault,
        )

    def verify(self) -> Verdict:
        """Recompute the chain from its first row and compare it with every checkpoint."""
        self._audit.seal()
        while True:
            first = self._store.after(0, 1)
            verdict = self._verify()
            # Otherwise rows were pruned meanwhile, and the missing row is no fault.
            if verdict.fault is None or self._store.after(0, 1) == first:
                return verdict

    def _verify(self) -> Verdict:
        checkpoints = {point.sequence: point for point in self._store.checkpoints()}
        for point in checkpoints.values():
            if not self._is_signed(point):
                return Verdict(0, len(checkpoints), f"checkpoint {point.sequence} is not ours")
        sequence, previous = start = self._start(checkpoints)
        pruned = 0
        rows = 0
        while batch := self._store.after(sequence, _BATCH):
            for row in batch:
                sequence += 1
                if row.sequence != sequence:
                    return Verdict(rows, len(checkpoints), f"row {sequence} is missing")
                previous = row_hash(row, previous)
                if row.hash != previous:
                    return Verdict(rows, len(checkpoints), f"row {sequence} was changed")
                here = checkpoints.get(sequence)
                if here is not None and here.hash != previous:
                    return Verdict(rows, len(checkpoints), f"the chain up to {sequence} is another")
                rows += 1
                if row.action == PRUNED and row.after is not None:
                    # Of two concurrent prunings, the later one may delete less.
                    pruned = max(pruned, row.after.get("sequence", 0))
        # SECURITY: otherwise somebody who deletes the beginning could call it pruned. Fewer rows
        # may be missing than were to be pruned, because a pruning may have been interrupted.
        if pruned < start[0]:
            fault = f"the chain begins after row {start[0]}, and was pruned up to row {pruned}"
            return Verdict(rows, len(checkpoints), fault)
        if checkpoints and max(checkpoints) > sequence:
            return Verdict(rows, len(checkpoints), f"rows after {sequence} are missing")
        return Verdict(rows, len(checkpoints), None)

    def _is_signed(self, point: Checkpoint) -> bool:
        try:
            claims = self._documents.verify(point.signature, typ=CHECKPOINT_TYPE)
        except BadToken:
            return False
        return claims.get("sequence") == point.sequence and claims.get("hash") == point.hash

    def _start(self, checkpoints: Mapping[int, Checkpoint]) -> tuple[int, str]:
        """Return where the chain begins: at its origin, or at the checkpoint of a pruning."""
        first = self._store.after(0, 1)
        start = checkpoints.get((first[0].sequence or 1) - 1) if first else None
        return (start.sequence, start.hash) if start is not None else (0, GENESIS)
