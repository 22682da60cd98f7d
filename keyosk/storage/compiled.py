"""Queries that are compiled once and run many times."""

from collections.abc import Callable, Sequence
from typing import Any

import peewee

Row = tuple[Any, ...]


class Parameter:
    """A named place in a query that ``Database.compile`` leaves open."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


def parameter(name: str) -> peewee.Value:
    """A place for a value that is given when the compiled query runs."""
    return peewee.Value(Parameter(name), converter=False)


class Compiled:
    """A query as SQL text with open places."""

    __slots__ = ("_execute", "_parameters", "_sql")

    def __init__(
        self,
        execute: Callable[[str, Sequence[Any]], list[Row]],
        sql: str,
        parameters: tuple[Any, ...],
    ) -> None:
        self._execute = execute
        self._sql = sql
        self._parameters = parameters

    def __call__(self, **values: Any) -> list[Row]:
        """The rows as tuples, with ``values`` in the open places."""
        return self._execute(
            self._sql,
            [values[p.name] if isinstance(p, Parameter) else p for p in self._parameters],
        )
