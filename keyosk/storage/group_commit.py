"""Writes of the event loop to a SQLite file: those of several requests in one transaction.

A commit waits for the disk, so a thread makes it. It takes with it what all requests of one turn of
the event loop write, and what others write until it is done: the disk is waited for once, and one
thread is woken once. Databases call that group commit.

SECURITY: a request goes on once its write is on disk. Where anything goes wrong, nothing of its
group is written, or nobody knows whether it was: then each of its requests begins again in a thread
of its own. So only what may run twice is written here.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, NamedTuple

from keyosk import suspension
from keyosk.storage.compiled import Row

_MOST: Final = 64  # writes that wait; while the disk is slow, further ones use threads


class Statement(NamedTuple):
    """A statement, and the values of its placeholders."""

    sql: str
    parameters: Sequence[Any]


class _Write(NamedTuple):
    statement: Statement
    resume: Callable[[Any], object]


class GroupCommit:
    """Writes for the event loop, over the connection of a thread of its own."""

    #: As for ``Pipeline``: no other thread need open the connection.
    is_wanted: Final = False

    def __init__(self, run: Callable[[Sequence[Statement]], list[list[Row]]]) -> None:
        """``run`` runs statements in one transaction, and returns the rows of each."""
        self._run = run
        self._waiting: list[_Write] = []
        self._groups: SimpleQueue[list[_Write]] | None = None
        #: Whether a group is with the thread, or will be soon.
        self._is_busy = False

    def open(self) -> None:
        """Do nothing: the thread opens it."""

    def fetch(self, sql: str, parameters: Sequence[Any]) -> list[Row] | None:
        """Suspend the request until its statement is committed, and return the rows of it.

        ``None`` if the request is to begin again in a thread, for whatever reason.
        """
        if not suspension.is_possible() or len(self._waiting) >= _MOST:
            return None
        if self._groups is None:
            self._groups = self._start(asyncio.get_running_loop())
        rows: list[Row] | None = suspension.suspend(partial(self._wait, Statement(sql, parameters)))
        return rows

    def _wait(self, statement: Statement, resume: Callable[[Any], object]) -> None:
        self._waiting.append(_Write(statement, resume))
        if not self._is_busy:
            self._is_busy = True
            asyncio.get_running_loop().call_soon(self._begin)  # after the others of this turn

    def _begin(self) -> None:
        assert self._groups is not None
        group, self._waiting = self._waiting, []
        self._groups.put(group)

    def _start(self, loop: asyncio.AbstractEventLoop) -> SimpleQueue[list[_Write]]:
        """Start the thread; return how it gets groups."""
        groups: SimpleQueue[list[_Write]] = SimpleQueue()
        work = partial(self._work, groups, loop)
        threading.Thread(target=work, name="group-commit", daemon=True).start()
        return groups

    def _work(self, groups: SimpleQueue[list[_Write]], loop: asyncio.AbstractEventLoop) -> None:
        while True:
            group = groups.get()
            rows: Sequence[list[Row] | None]
            try:
                rows = self._run([write.statement for write in group])
            except Exception:  # noqa: BLE001 - each request meets its own, in a thread
                rows = [None] * len(group)
            try:
                loop.call_soon_threadsafe(self._end, group, rows)
            except RuntimeError:  # the process ends
                return

    def _end(self, group: Sequence[_Write], rows: Sequence[list[Row] | None]) -> None:
        loop = asyncio.get_running_loop()
        for write, result in zip(group, rows, strict=True):
            loop.call_soon(write.resume, result)  # by itself, so that none can hold up the others
        if self._waiting:
            self._begin()
        else:
            self._is_busy = False
