"""Queries that are compiled once and run many times."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import NoneType
from typing import Any, Final

import peewee

Row = tuple[Any, ...]


class Parameter:
    """A placeholder with a name, in a query for ``Database.compile``."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


def parameter(name: str) -> peewee.Value:
    """Return a placeholder for a value that is given when the compiled query runs."""
    return peewee.Value(Parameter(name), converter=False)


class Compiled:
    """A query as SQL text with placeholders, which is compiled at its first use.

    Compiling all queries at the start would take as long as issuing several tokens, and most are
    not needed soon.
    """

    __slots__ = ("_execute", "_names", "_parameters", "_query", "_sql")

    def __init__(
        self, execute: Callable[[str, Sequence[Any]], list[Row]], query: peewee.Query
    ) -> None:
        """``query``: one that is bound to its database."""
        self._execute = execute
        self._query: peewee.Query | None = query
        columns = query.selected_columns if isinstance(query, peewee.Select) else ()
        # The names of columns in peewee's dictionaries: that of the field, or the alias.
        self._names = tuple(getattr(each, "name", getattr(each, "_alias", "")) for each in columns)
        self._sql = ""
        self._parameters: tuple[Any, ...] = ()

    def __call__(self, **values: Any) -> list[Row]:
        """Return the rows as tuples; ``values`` replace the placeholders."""
        query = self._query
        if query is not None:
            self._sql, parameters = query.sql()
            self._parameters = tuple(parameters)
            self._query = None  # last, because another thread may read the text now
        return self._execute(
            self._sql,
            [values[p.name] if isinstance(p, Parameter) else p for p in self._parameters],
        )

    def first(self, **values: Any) -> dict[str, Any] | None:
        """Return the first row by column, or ``None``."""
        rows = self.dicts(**values)
        return rows[0] if rows else None

    def dicts(self, **values: Any) -> list[dict[str, Any]]:
        """Return the rows by column."""
        return [dict(zip(self._names, row, strict=True)) for row in self(**values)]


class Column:
    """A column of an insert, and the conversion of its values for the driver."""

    __slots__ = ("convert", "kind", "name", "plain", "stored_as")

    def __init__(self, name: str, field: Any) -> None:
        self.name = name
        self.stored_as: str = field.column_name
        self.convert = field.db_value
        stored = field.rel_field if isinstance(field, peewee.ForeignKeyField) else field
        #: The type of the values that the field does not convert. Calling it for each value of
        #: 100,000 rows takes half a second.
        self.kind = next((kind for of, kind in _PLAIN.items() if isinstance(stored, of)), NoneType)
        self.plain = {self.kind, NoneType}

    def values(self, values: Sequence[Any]) -> Sequence[Any]:
        """Return these values as the driver needs them."""
        return (
            values if self.plain.issuperset(map(type, values)) else list(map(self.convert, values))
        )


_PLAIN: Final[Mapping[type[peewee.Field], type]] = {
    peewee.CharField: str,
    peewee.TextField: str,
    peewee.IntegerField: int,
    peewee.BooleanField: bool,
    peewee.BlobField: bytes,
}


@dataclass(frozen=True, slots=True)
class Insert:
    """An insert of any number of rows, compiled once.

    Attributes:
        head: The SQL before the rows.
        row: The SQL of one row.
        tail: The SQL after the rows.
        returns: Whether it returns the primary keys of the rows.
    """

    table: str
    columns: tuple[Column, ...]
    head: str
    row: str
    tail: str
    returns: bool

    def values(self, rows: int) -> str:
        """Return the SQL for this many rows."""
        return f"{self.head} VALUES {', '.join([self.row] * rows)}{self.tail}"

    def with_shared(self, columns: Sequence[Sequence[Any]]) -> tuple[str, list[Any]]:
        """Return the SQL and the parameters; a column with the same value in all rows has one.

        For SQLite, where a parameter takes a quarter of the time of an entry in an index.
        """
        shared: list[Any] = []
        differing: list[Sequence[Any]] = []
        selected = []
        for values in columns:
            if values.count(values[0]) == len(values):
                shared.append(values[0])
                selected.append(f"?{len(shared)}")
            else:
                differing.append(values)
                selected.append(f"column{len(differing)}")
        if not differing:  # VALUES must have one row for each: the last column is repeated
            del shared[-1]
            differing, selected[-1] = [columns[-1]], "column1"
        row = f"({', '.join('?' * len(differing))})"
        rows = ", ".join([row] * len(columns[0]))
        sql = f"{self.head} SELECT {', '.join(selected)} FROM (VALUES {rows}){self.tail}"  # noqa: S608  # nosec B608
        return sql, [*shared, *chain.from_iterable(zip(*differing, strict=True))]


class Inserts:
    """Inserts by their table and columns."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database
        self._known: dict[Any, Insert] = {}

    def of(
        self, table: type[peewee.Model], names: tuple[str, ...], *, skipping_taken: bool
    ) -> Insert:
        """Return the insert.

        ``skipping_taken``: it skips rows that conflict, and returns the keys of the others.
        """
        cached = self._known.get((table, names, skipping_taken))
        if cached is not None:
            return cached
        meta = table._meta
        fields = [meta.combined[name] for name in names]
        query = table.insert_many([[None] * len(fields)], fields=fields)
        # ``returning()``: nothing. Without it, peewee lets PostgreSQL return the keys.
        query = (
            query.on_conflict_ignore().returning(meta.primary_key)
            if skipping_taken
            else query.returning()
        )
        sql, _ = query.bind(self._database).sql()
        head, _, rest = sql.partition(" VALUES ")
        row, end, tail = rest.partition(")")
        insert = Insert(
            meta.table_name,
            tuple(map(Column, names, fields)),
            head,
            row + end,
            tail,
            returns=skipping_taken,
        )
        self._known[table, names, skipping_taken] = insert
        return insert
