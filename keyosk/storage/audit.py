"""The audit log: rows, their chain, its checkpoints, and counts of failed logins."""

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from json.encoder import encode_basestring
from typing import Any, Final

import peewee
from peewee import EXCLUDED

from keyosk.ids import is_id, new_id
from keyosk.model import AuditRow, Checkpoint, ListQuery, LoginFailure, Refusal
from keyosk.storage import listing as lists
from keyosk.storage import tables
from keyosk.storage.compiled import parameter
from keyosk.storage.database import Database

_SORTS: Final[lists.Sorts] = {"sequence": tables.AuditRow.sequence, "time": tables.AuditRow.time}
_DONE: Final = "done"
_TIMES: Final = frozenset({"since", "until"})
#: The filters by an action and by the name of an actor as one, "account.delete alice": no action
#: has a space.
_ACTION_OF: Final = "action of actor"
#: The filters that an index serves in the order of places. A page walks along the first that it
#: has, so those that fewer rows pass come first.
_WALKED: Final = ("target", _ACTION_OF, "actor", "action", "credential", "outcome")
#: Seconds by which a count may lie ahead; below that it waits for its minute to be over.
_FAR: Final = 3_600
#: Addresses from which failed logins of one account are kept apart in a minute.
_PLACES: Final = 50
#: In place of an action: how many refusals of an account have rows of their own.
_SHOWN: Final = ""
_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode
_SCALARS: Final = frozenset({str, bool, int, type(None)})
#: The lock of whoever seals.
_SEALING: Final = "audit/seal"
#: The lock of whoever prunes.
_PRUNING: Final = "audit/prune"

#: What rows have in common, and what each target is now.
AlikeRows = tuple[AuditRow, Mapping[str, Mapping[str, Any]]]
#: Takes the hash before, and the place, id, target and JSON of what the target is now.
HashOf = Callable[[str, int, str, str, str], bytes]


class AuditStore:
    """Reads and writes the tables of the audit log, its checkpoints and what is counted for it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # What follows each change that is made, compiled once: most of the time there is nothing.
        row, waiting, point = tables.AuditRow, tables.WaitingAuditRow, tables.Checkpoint
        failure, refusal = tables.LoginFailure, tables.Refusal
        self._waiting = database.compile(
            waiting.select().order_by(waiting.id).limit(parameter("limit"))
        )
        self._last = database.compile(row.select().order_by(row.sequence.desc()).limit(1))
        self._newest_checkpoint = database.compile(
            point.select().order_by(point.sequence.desc()).limit(1)
        )
        # Compiled, these return what is stored: a field would fail on what is of another type.
        self._after = database.compile(
            row.select()
            .where(row.sequence > parameter("sequence"))
            .order_by(row.sequence)
            .limit(parameter("limit"))
        )
        self._checkpoints = database.compile(point.select().order_by(point.sequence))
        self._due_failures = database.compile(
            failure.select().where(_due(failure.minute)).order_by(failure.minute)
        )
        self._due_refusals = database.compile(
            refusal.select().where(_due(refusal.minute)).order_by(refusal.minute)
        )

    def add(self, rows: Sequence[AuditRow]) -> None:
        """Insert rows that are not sealed yet, in a transaction of the caller's."""
        self._database.insert_all(tables.WaitingAuditRow, [_columns(row) for row in rows])

    def add_sealed(
        self, rows: Collection[AuditRow], hash_of: Callable[[AuditRow, str, int], str], first: str
    ) -> None:
        """Insert rows at the end of the chain, in a transaction that holds ``lock``.

        ``hash_of`` and ``first``: as of ``seal``, which has to come before.
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
        self, changes: Collection[AlikeRows], hashing: Callable[[AuditRow], HashOf], first: str
    ) -> None:
        """As ``add_sealed``, of rows that differ in their ids, targets and what those are now.

        ``hashing``: what makes the hashes of rows that are like one.
        """
        sequence, previous = self._end() or (0, first)
        columns: dict[str, list[Any]] = defaultdict(list)
        for like, targets in changes:
            hash_of = hashing(like)
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
            shared = {name: [value] * len(targets) for name, value in _columns(like).items()}
            for name, values in (shared | differing).items():
                columns[name] += values
        self._database.insert_columns(tables.AuditRow, columns)

    def page(self, list_query: ListQuery) -> list[AuditRow]:
        """Return a page of sealed rows."""
        list_query = _paired(list_query)
        leading = _leading(list_query)
        among = self._few(list_query.filters, leading)
        if among is not None and not among:
            return []
        query = lists.page(
            tables.AuditRow.select(),
            list_query,
            key=tables.AuditRow.sequence,
            sorts=_SORTS,
            filters=self._filters(leading if among is None else ()),
            among=among,
        )
        return [_row(row) for row in self._database.rows(query)]

    def horizon(self, list_query: ListQuery, *, looked_at: int) -> AuditRow | None:
        """Return the last row that a page looks at; ``None`` if it looks at all to come."""
        row = tables.AuditRow
        list_query = _paired(list_query)
        filters, leading = list_query.filters, _leading(list_query)
        if filters.keys() <= leading or self._few(filters, leading) is not None:
            return None
        walked = {name: filters[name] for name in filters.keys() & leading}
        ahead = lists.page(
            # From the index alone: only the row at its end is read.
            row.select(row.sequence),
            replace(list_query, filters=walked, limit=1),
            key=row.sequence,
            sorts=_SORTS,
            filters=self._filters(leading),
        )
        # One statement: between two, somebody may prune that row.
        last = self._database.row(row.select().where(row.sequence == ahead.offset(looked_at - 1)))
        return None if last is None else _row(last)

    def _few(self, filters: Mapping[str, Any], leading: frozenset[str]) -> set[Any] | None:
        """The places of the rows that pass one of the filters, if those are few.

        ``None`` as well if all filters are ``leading``, whose index needs no help.
        """
        if filters.keys() <= leading:
            return None
        indexed = [each for each in filters.items() if _is_indexed(*each)]
        return lists.few(self._database, [[_keys(*each)] for each in indexed])

    def _filters(self, indexed: Collection[str]) -> lists.Filters:
        """The condition of each filter; an index is used for those ``indexed`` only."""
        names = (*_WALKED, *_TIMES)
        seen = partial(lists.unindexed, self._database)
        return {
            name: partial(_condition, name, place=None if name in indexed else seen)
            for name in names
        }

    def count(self, list_query: ListQuery) -> int:
        """Return the number of sealed rows that pass the filters of a list."""
        list_query = _paired(list_query)
        query = lists.filtered(
            tables.AuditRow.select(), list_query, self._filters(list_query.filters.keys())
        )
        return lists.count(self._database, query, list_query)

    def seal(self, hash_of: Callable[[AuditRow, str, int], str], first: str, *, limit: int) -> int:
        """Give up to ``limit`` rows their places in the chain; returns how many it was.

        ``hash_of``: the hash of a row after the hash before it; ``first``: what stands before the
        first row of all. Only one process seals at a time; writers never wait for it on PostgreSQL.
        """
        with self._database.transaction():
            self._database.lock(_SEALING)
            waiting = [_row(row) for row in self._waiting.dicts(limit=limit)]
            if waiting:
                self.add_sealed(waiting, hash_of, first)
                # SECURITY: just these. One with a lower id may have been committed meanwhile.
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
        """Return the place of the last checkpoint whose rows are all older than ``before``.

        And how many rows are kept up to it.
        """
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
        """Delete the oldest rows, up to a checkpoint that is ``place`` or before it.

        Up to the last one within ``most`` rows, or the first one. That checkpoint stays, so that
        the rest can be verified. Returns how many rows it was.
        """
        row, point = tables.AuditRow, tables.Checkpoint
        with self._database.transaction():
            # Else two would delete the same part, and one of them find nothing left of it and stop.
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

    def count_failure(self, failure: LoginFailure) -> None:
        """Add to the failed logins of this account, address and minute.

        From more than ``_PLACES`` addresses they are counted together, under none.
        """
        known = tables.LoginFailure
        at_once = (known.account == failure.account) & (known.minute == failure.minute)
        address = failure.address
        if self._database.row(known.select().where(at_once & (known.address == address))) is None:
            places = self._database.count(known.select().where(at_once))
            address = address if places < _PLACES else ""
        self._database.write(
            known.insert(
                account=failure.account,
                address=address,
                minute=failure.minute,
                count=failure.count,
                throttled=failure.throttled,
            )
            .on_conflict(
                conflict_target=[known.account, known.address, known.minute],
                update={
                    known.count: known.count + EXCLUDED.count,
                    known.throttled: known.throttled | EXCLUDED.throttled,
                },
                # Where nothing changes, nothing is written.
                where=(EXCLUDED.count > 0) | ~known.throttled,
            )
            .returning()
        )

    def failures(self, limit: int) -> list[LoginFailure]:
        """Return counts that have no rows yet, those of the most failed logins first."""
        failure = tables.LoginFailure
        query = failure.select().order_by(failure.count.desc()).limit(limit)
        return [
            LoginFailure(**{**row, "throttled": bool(row["throttled"])})
            for row in self._database.rows(query)
        ]

    def take_failures(self, before: int) -> list[LoginFailure]:
        """Take out the counts of minutes before ``before``, in a transaction of the caller's.

        And those of a clock that was ahead, which would come much too late.
        """
        rows = self._due_failures.dicts(before=before)
        if rows:
            minute = tables.LoginFailure.minute
            due = (minute < before) | (minute > before + _FAR)
            self._database.write(tables.LoginFailure.delete().where(due))
        return [LoginFailure(**{**row, "throttled": bool(row["throttled"])}) for row in rows]

    def show_refusal(self, refusal: Refusal, *, most: int) -> bool:
        """Whether it is among the first ``most`` of its account and minute, of whatever kind."""
        shown = replace(refusal, credential="", action=_SHOWN)
        known = tables.Refusal
        mine = (
            (known.account == shown.account)
            & (known.credential == "")
            & (known.action == _SHOWN)
            & (known.minute == shown.minute)
        )
        before = self._database.row(known.select(known.count).where(mine))
        if before is not None and before["count"] >= most:
            return False
        self.count_refusal(shown)
        after = self._database.row(known.select(known.count).where(mine))
        return after is not None and after["count"] <= most

    def count_refusal(self, refusal: Refusal) -> None:
        """Add to the refusals of this account, credential, kind and minute."""
        known = tables.Refusal
        self._database.write(
            known.insert(
                account=refusal.account,
                credential=refusal.credential,
                action=refusal.action,
                minute=refusal.minute,
                count=refusal.count,
                sample=json.dumps(refusal.sample),
            )
            .on_conflict(
                conflict_target=[known.account, known.credential, known.action, known.minute],
                update={known.count: known.count + EXCLUDED.count},
            )
            .returning()
        )

    def take_refusals(self, before: int) -> list[Refusal]:
        """As ``take_failures``, of what was refused."""
        rows = self._due_refusals.dicts(before=before)
        if rows:
            minute = tables.Refusal.minute
            due = (minute < before) | (minute > before + _FAR)
            self._database.write(tables.Refusal.delete().where(due))
        return [
            Refusal(**{**row, "sample": json.loads(row["sample"])})
            for row in rows
            if row["action"] != _SHOWN
        ]

    def lock(self) -> None:
        """Inside a transaction: be the only one who seals or takes counts out."""
        self._database.lock(_SEALING)

    def _end(self) -> tuple[int, str] | None:
        """Return the sequence number and hash of the last row, even if all rows were pruned."""
        last = self.last()
        if last is not None and last.sequence is not None and last.hash is not None:
            return last.sequence, last.hash
        kept = self.newest_checkpoint()
        return (kept.sequence, kept.hash) if kept else None


def _due(minute: Any) -> Any:
    before = parameter("before")
    return (minute < before) | (minute > before + _FAR)


def _paired(list_query: ListQuery) -> ListQuery:
    """Return the same listing; what has an index together is one filter."""
    filters = dict(list_query.filters)
    # No name has the form of an id.
    if "action" not in filters or "actor" not in filters or is_id(filters["actor"]):
        return list_query
    filters[_ACTION_OF] = f"{filters.pop('action')} {filters.pop('actor')}"
    return replace(list_query, filters=filters)


def _leading(list_query: ListQuery) -> frozenset[str]:
    """The filters whose index a page walks along, in its order."""
    if list_query.sort != "sequence":
        return _TIMES
    filters = list_query.filters
    walked = (name for name in _WALKED if name in filters and _is_indexed(name, filters[name]))
    return frozenset([*walked][:1])


def _is_indexed(name: str, value: Any) -> bool:
    """Whether there is an index that has the rows that pass a filter."""
    return name != "outcome" or bool(value != _DONE)


def _keys(name: str, value: Any) -> "peewee.ModelSelect[Any]":
    """The places of the rows that pass a filter, in the order of its index."""
    row = tables.AuditRow
    keys = row.select(row.sequence.alias("key")).where(_condition(name, value))
    # In an order, as PostgreSQL might read the table for some that many rows pass.
    return keys.order_by(row.time if name in _TIMES else row.sequence)


def _condition(
    name: str, value: Any, *, place: Callable[[Any], Any] | None = None
) -> peewee.Expression:
    """``place``: what to hold against the value in place of the column, for one not indexed."""
    row = tables.AuditRow
    column: Any
    if name == "actor":
        column = row.actor if is_id(value) else row.actor_name  # no name has the form of an id
    elif name in _TIMES:
        column = row.time
    elif name == _ACTION_OF:
        # As the index says it: a planner knows it by that, and how many rows pass.
        column = row.action.concat(peewee.SQL("' '")).concat(row.actor_name)
    else:
        column = getattr(row, name)
    held: Any = column if place is None else place(column)
    condition: peewee.Expression
    if name == "since":
        condition = held >= value
    elif name == "until":
        condition = held < value
    else:
        condition = held == value
    if name == "outcome" and value != _DONE and place is None:
        # Said in SQL, so that a planner sees that the index of just these can be used.
        condition &= row.outcome != peewee.SQL(f"'{_DONE}'")
    return condition


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
    """Return each as JSON; many are one and the same object."""
    known = {id(value): value for value in values}
    texts = dict(zip(known, _encoded([*known.values()]), strict=True))
    return [texts[id(value)] for value in values]


def _encoded(values: Sequence[Mapping[str, Any]]) -> list[str]:
    """``_ENCODE`` of each, member by member: a tenth of the time where they have the same ones."""
    names = sorted(values[0])
    if any(value.keys() != values[0].keys() for value in values):
        return [*map(_ENCODE, values)]
    form, differing = [], []
    for name in names:
        column = [value[name] for value in values]
        kinds = {*map(type, column)}
        texts = map(encode_basestring if kinds == {str} else _encoded_value, column)
        # Not by equality alone: True is 1, and deep inside of an object too.
        is_one = kinds <= _SCALARS or not any(column)
        if is_one and len(kinds) == 1 and column.count(column[0]) == len(column):
            text = _escaped(next(texts))
        else:
            text = "%s"
            differing.append(texts)
        form.append(f"{_escaped(encode_basestring(name))}:{text}")
    template = f"{{{','.join(form)}}}"
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


# SECURITY: whoever writes to the database may have put anything there, of any type on SQLite. That
# is then no hash and no object, and verifying the chain says so.
def _text(hash_: Any) -> str | None:
    is_binary = isinstance(hash_, bytes | memoryview)
    return bytes(hash_).hex() if is_binary else None if hash_ is None else str(hash_)


def _loaded(text: Any) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (TypeError, ValueError):
        return {"not JSON": str(text)}
