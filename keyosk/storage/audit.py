"""The audit log: its rows, their chain, and its checkpoints."""

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from json.encoder import encode_basestring
from typing import Any, Final

from keyosk.audit_chain import HashOf
from keyosk.ids import new_id
from keyosk.model import AuditRow, Checkpoint, ListQuery
from keyosk.storage import tables
from keyosk.storage.audit_counts import AuditCounts
from keyosk.storage.audit_lists import AuditLists
from keyosk.storage.compiled import parameter
from keyosk.storage.database import Database

_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode
_SCALARS: Final = frozenset({str, bool, int, type(None)})
#: The lock for sealing.
_SEALING: Final = "audit/seal"
#: The lock for pruning.
_PRUNING: Final = "audit/prune"

#: A row, and the targets with a similar row, each with its state after the change.
SimilarRows = tuple[AuditRow, Mapping[str, Mapping[str, Any]]]


class AuditStore:
    """Reads and writes the tables of the audit log and its checkpoints.

    ``counts``: what is not in the log yet.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lists = AuditLists(database)
        self.counts: Final = AuditCounts(database)
        # Compiled, because they run after each change.
        row, waiting, point = tables.AuditRow, tables.WaitingAuditRow, tables.Checkpoint
        self._waiting = database.compile(
            waiting.select().order_by(waiting.id).limit(parameter("limit"))
        )
        self._last = database.compile(row.select().order_by(row.sequence.desc()).limit(1))
        self._newest_checkpoint = database.compile(
            point.select().order_by(point.sequence.desc()).limit(1)
        )
        # Compiled queries return values as stored; a field would fail on one of another type.
        self._after = database.compile(
            row.select()
            .where(row.sequence > parameter("sequence"))
            .order_by(row.sequence)
            .limit(parameter("limit"))
        )
        self._checkpoints = database.compile(point.select().order_by(point.sequence))

    def add(self, rows: Sequence[AuditRow]) -> None:
        """Insert rows that are not sealed yet, in the caller's transaction."""
        self._database.insert_all(tables.WaitingAuditRow, [_columns(row) for row in rows])

    def add_sealed(
        self, rows: Collection[AuditRow], hash_of: Callable[[AuditRow, str, int], str], first: str
    ) -> None:
        """Insert rows at the end of the chain, in a transaction that holds ``lock``.

        ``hash_of`` and ``first``: as for ``seal``, which must have been called before.
        """
        sequence, previous = self._end() or (0, first)
        columns = []
        for row in rows:
            sequence += 1
            previous = hash_of(row, previous, sequence)
            place = {"sequence": sequence, "hash": bytes.fromhex(previous)}
            columns.append({**_columns(row), **place})
        self._database.insert_all(tables.AuditRow, columns)

    def add_many_sealed(
        self, changes: Collection[SimilarRows], hashing: Callable[[AuditRow], HashOf], first: str
    ) -> None:
        """As ``add_sealed``, for rows that differ only in their id, target and ``after``.

        ``hashing``: returns the hash function for the rows that are similar to one.
        """
        sequence, previous = self._end() or (0, first)
        columns: dict[str, list[Any]] = defaultdict(list)
        for template, targets in changes:
            hash_of = hashing(template)
            differing: dict[str, list[Any]] = {
                "sequence": [*range(sequence + 1, sequence + len(targets) + 1)],
                "id": [new_id() for _ in targets],
                "target": [*targets],
                "after": _texts(targets.values()),
            }
            for row in zip(*differing.values(), strict=True):
                digest = hash_of(previous, *row)
                previous = digest.hex()
                columns["hash"].append(digest)
            sequence += len(targets)
            shared = {name: [value] * len(targets) for name, value in _columns(template).items()}
            for name, values in (shared | differing).items():
                columns[name] += values
        self._database.insert_columns(tables.AuditRow, columns)

    def page(self, list_query: ListQuery) -> list[AuditRow]:
        """Return a page of sealed rows."""
        return [_row(row) for row in self._lists.page(list_query)]

    def horizon(self, list_query: ListQuery, *, looked_at: int) -> AuditRow | None:
        """Return the last row that a page looks at; ``None`` if it looks at all the rest."""
        row = self._lists.horizon(list_query, looked_at=looked_at)
        return None if row is None else _row(row)

    def count(self, list_query: ListQuery) -> int:
        """Return the number of sealed rows that pass the filters of a list."""
        return self._lists.count(list_query)

    def seal(self, hash_of: Callable[[AuditRow, str, int], str], first: str, *, limit: int) -> int:
        """Give up to ``limit`` rows their places in the chain; returns their number.

        ``hash_of``: returns the hash of a row for the hash before it, ``first`` before the first
        row. Only one process seals at a time; on PostgreSQL writers never wait for it.
        """
        with self._database.transaction():
            self._database.lock(_SEALING)
            waiting = [_row(row) for row in self._waiting.dicts(limit=limit)]
            if waiting:
                self.add_sealed(waiting, hash_of, first)
                # SECURITY: only these. A row with a lower id may have been committed meanwhile.
                ids = [row.id for row in waiting]
                self._database.write(
                    tables.WaitingAuditRow.delete().where(tables.WaitingAuditRow.id.in_(ids))
                )
            return len(waiting)

    def last(self) -> AuditRow | None:
        """Return the newest sealed row."""
        row = self._last.first()
        return _row(row) if row else None

    def after(self, sequence: int, limit: int) -> list[AuditRow]:
        """Return up to ``limit`` sealed rows after a place in the chain, in its order."""
        return [_row(row) for row in self._after.dicts(sequence=sequence, limit=limit)]

    def prunable(self, before: int) -> tuple[int, int]:
        """Return the place of the last checkpoint before ``before``, and the rows up to it."""
        point = tables.Checkpoint
        newest = self._database.row(
            point.select(point.sequence).where(point.time < before).order_by(point.sequence.desc())
        )
        first = self._database.row(
            tables.AuditRow.select(tables.AuditRow.sequence).order_by(tables.AuditRow.sequence)
        )
        if newest is None or first is None or first["sequence"] > newest["sequence"]:
            return 0, 0
        return newest["sequence"], newest["sequence"] - first["sequence"] + 1

    def prune(self, place: int, *, most: int) -> int:
        """Delete the oldest rows, up to a checkpoint at or before ``place``; returns their number.

        It is the last checkpoint within ``most`` rows, or else the first one. It stays, so that the
        rest can be verified.
        """
        row, point = tables.AuditRow, tables.Checkpoint
        with self._database.transaction():
            # Otherwise two would delete the same part, and one would find nothing and stop.
            self._database.lock(_PRUNING)
            first = self._database.row(row.select(row.sequence).order_by(row.sequence))
            if first is None:
                return 0
            due = point.select(point.sequence).where(
                (point.sequence >= first["sequence"]) & (point.sequence <= place)
            )
            near = point.sequence < first["sequence"] + most
            end = self._database.row(due.where(near).order_by(point.sequence.desc()))
            end = end or self._database.row(due.order_by(point.sequence))
            if end is None:
                return 0
            self._database.write(point.delete().where(point.sequence < end["sequence"]))
            return self._database.write(row.delete().where(row.sequence <= end["sequence"]))

    def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Insert a checkpoint; does nothing if there is one at its place."""
        self._database.write(
            tables.Checkpoint.insert(
                sequence=checkpoint.sequence,
                hash=checkpoint.hash,
                time=checkpoint.time,
                signature=checkpoint.signature,
            )
            .on_conflict_ignore()
            .returning()
        )

    def checkpoints(self) -> list[Checkpoint]:
        """Return all checkpoints, oldest first."""
        return [_checkpoint(row) for row in self._checkpoints.dicts()]

    def newest_checkpoint(self) -> Checkpoint | None:
        """Return the last checkpoint: there is one for each busy hour, and every write reads it."""
        row = self._newest_checkpoint.first()
        return None if row is None else _checkpoint(row)

    def lock(self) -> None:
        """Take the lock for sealing and for removing counts, inside a transaction."""
        self._database.lock(_SEALING)

    def _end(self) -> tuple[int, str] | None:
        """Return the sequence number and hash of the last row, even if all rows were pruned."""
        last = self.last()
        if last is not None and last.sequence is not None and last.hash is not None:
            return last.sequence, last.hash
        checkpoint = self.newest_checkpoint()
        return (checkpoint.sequence, checkpoint.hash) if checkpoint else None


def _columns(row: AuditRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "time": row.time,
        "actor": row.actor,
        "actor_name": row.actor_name,
        "credential": row.credential,
        "address": row.address,
        "request_id": row.request_id,
        "action": row.action,
        "target": row.target,
        "before": _json(row.before),
        "after": _json(row.after),
        "outcome": row.outcome,
        "via": row.via,
    }


def _texts(values: Collection[Mapping[str, Any]]) -> list[str]:
    """Return each value as JSON; many are the same object."""
    by_identity = {id(value): value for value in values}
    texts = dict(zip(by_identity, _encoded([*by_identity.values()]), strict=True))
    return [texts[id(value)] for value in values]


def _encoded(values: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return ``_ENCODE`` of each value; a tenth of its time if all have the same members."""
    names = sorted(values[0])
    if any(value.keys() != values[0].keys() for value in values):
        return [*map(_ENCODE, values)]
    members, differing = [], []
    for name in names:
        column = [value[name] for value in values]
        kinds = {*map(type, column)}
        texts = map(encode_basestring if kinds == {str} else _encoded_value, column)
        # Not by equality alone: True equals 1, also inside of objects.
        is_comparable = kinds <= _SCALARS or not any(column)
        if is_comparable and len(kinds) == 1 and column.count(column[0]) == len(column):
            text = _escaped(next(texts))
        else:
            text = "%s"
            differing.append(texts)
        members.append(f"{_escaped(encode_basestring(name))}:{text}")
    template = f"{{{','.join(members)}}}"
    rows = zip(*differing, strict=True) if differing else [()] * len(values)
    return [template % row for row in rows]


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _encoded_value(value: Any) -> str:
    if isinstance(value, str):
        return encode_basestring(value)
    return "true" if value is True else "false" if value is False else _ENCODE(value)


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else _ENCODE(value)


def _row(row: Mapping[str, Any]) -> AuditRow:
    return AuditRow(
        id=row["id"],
        sequence=row.get("sequence"),
        time=row["time"],
        actor=row["actor"],
        actor_name=row["actor_name"],
        credential=row["credential"],
        address=row["address"],
        request_id=row["request_id"],
        action=row["action"],
        target=row["target"],
        before=_loaded(row["before"]),
        after=_loaded(row["after"]),
        outcome=row["outcome"],
        via=row["via"],
        hash=_text(row.get("hash")),
    )


def _checkpoint(row: Mapping[str, Any]) -> Checkpoint:
    return Checkpoint(
        sequence=row["sequence"],
        hash=str(_text(row["hash"])),
        time=row["time"] if isinstance(row["time"], int) else 0,
        signature=str(row["signature"]),
    )


# SECURITY: somebody who can write to the database may have stored anything, on SQLite of any type.
# Then it is no hash or no object, which verifying the chain reports.
def _text(hash_: Any) -> str | None:
    is_binary = isinstance(hash_, bytes | memoryview)
    return bytes(hash_).hex() if is_binary else None if hash_ is None else str(hash_)


def _loaded(text: Any) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (TypeError, ValueError):
        return {"not JSON": str(text)}
