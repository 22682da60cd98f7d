"""Counts per minute for a few days, and the nodes."""

from collections.abc import Mapping
from typing import Any, Final

import peewee
from peewee import EXCLUDED, fn

from keyosk.model import Node
from keyosk.storage import tables
from keyosk.storage.compiled import parameter
from keyosk.storage.database import Database

#: The most nodes that are listed.
_NODES: Final = 200


class ActivityStore:
    """Reads and writes the tables of activity and nodes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        activity, node = tables.Activity, tables.Node
        start = activity.minute / parameter("step") * parameter("step")
        self._totals = database.compile(
            activity.select(start.alias("start"), activity.kind, fn.SUM(activity.count))
            .where((activity.minute >= parameter("since")) & (activity.minute < parameter("until")))
            .group_by(peewee.SQL("start"), activity.kind)
        )
        self._see = database.compile(
            node.insert(
                name=parameter("name"),
                version=parameter("version"),
                started_at=parameter("started_at"),
                seen_at=parameter("seen_at"),
            )
            .on_conflict(
                conflict_target=[node.name],
                update={
                    node.version: EXCLUDED.version,
                    node.started_at: EXCLUDED.started_at,
                    node.seen_at: EXCLUDED.seen_at,
                },
                # The other processes of the node report the same.
                where=(node.seen_at < EXCLUDED.seen_at - parameter("every"))
                | (node.started_at < EXCLUDED.started_at)
                # Written by a clock that was ahead.
                | (node.seen_at > EXCLUDED.seen_at + parameter("every")),
            )
            .returning(),
            repeatable=False,
        )

    def add(self, counts: Mapping[tuple[int, str], int]) -> None:
        """Add to the counts by minute and kind, in one transaction."""
        table = tables.Activity
        rows = [
            {"minute": minute, "kind": kind, "count": count}
            # In a fixed order, so that two statements never deadlock.
            for (minute, kind), count in sorted(counts.items())
        ]
        self._database.write(
            table.insert_many(rows)
            .on_conflict(
                conflict_target=[table.minute, table.kind],
                update={table.count: table.count + EXCLUDED.count},
            )
            .returning()
        )

    def totals(self, since: int, until: int, step: int) -> list[tuple[int, str, int]]:
        """Return the counts of each ``step`` seconds and kind, as start, kind and count."""
        rows = self._totals(since=since, until=until, step=step)
        return [(int(start), kind, int(count)) for start, kind, count in rows]

    def see(self, node: Node, *, every: int) -> None:
        """Record that a node is running, unless it was recorded within ``every`` seconds."""
        self._see(
            name=node.name,
            version=node.version,
            started_at=node.started_at,
            seen_at=node.seen_at,
            every=every,
        )

    def nodes(self) -> list[Node]:
        """Return the nodes, by name."""
        query = tables.Node.select().order_by(tables.Node.name).limit(_NODES)
        return [Node(**row) for row in self._database.rows(query)]

    def forget(self, before: int, after: int) -> None:
        """Delete older rows, and rows that a clock ahead wrote."""
        moments: tuple[tuple[Any, Any], ...] = (
            (tables.Activity, tables.Activity.minute),
            (tables.Node, tables.Node.seen_at),
        )
        for table, moment in moments:
            self._database.write(table.delete().where((moment < before) | (moment > after)))
