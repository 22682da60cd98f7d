"""An event loop in the test's own process, whose functions are suspended where they wait."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from keyosk import delays
from keyosk.storage.database import Database
from keyosk.suspension import Suspendable

T = TypeVar("T")


class Left(BaseException):
    """The function was to begin again in a thread."""


def leave() -> NoReturn:
    raise Left


class EventLoop:
    """Runs functions as the server's event loop runs requests."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._suspendable = Suspendable()
        self._databases: set[Database] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._runner.run(self._close_connections())
        self._runner.close()

    async def _close_connections(self) -> None:
        """A server's ends with its process."""
        for database in self._databases:
            for used in (database._peewee.pipeline, database._peewee.write_pipeline):
                session: Any = used and used._session
                if session is not None:
                    session._close()

    def at_once(
        self, *actions: Callable[[], T], in_one_turn: bool = True
    ) -> list[T | BaseException]:
        """What functions return or raise that run at the same time.

        ``in_one_turn``: all begin in one turn of the loop, otherwise each in the next one.
        """
        return self._runner.run(self._run(actions, in_one_turn=in_one_turn))

    async def _run(
        self, actions: tuple[Callable[[], T], ...], *, in_one_turn: bool
    ) -> list[T | BaseException]:
        ended: list[asyncio.Future[T]] = []
        for action in actions:
            if not in_one_turn:
                await asyncio.sleep(0)
            future = asyncio.get_running_loop().create_future()
            ended.append(future)
            self._suspendable.run(lambda action=action, future=future: _end(action, future))  # type: ignore[misc]
        async with asyncio.timeout(30):
            return await asyncio.gather(*ended, return_exceptions=True)

    def is_ready(self, database: Database) -> bool:
        """Whether the loop can read this database."""
        self._databases.add(database)

        async def ask() -> bool:
            await asyncio.sleep(0)  # after what a thread has handed to the loop
            return database.reads_in_loop()

        return self._runner.run(ask())


def _end(action: Callable[[], Any], future: "asyncio.Future[Any]") -> None:
    delays.leave_loop.set(leave)
    try:
        future.set_result(action())
    except BaseException as error:  # noqa: BLE001  # it is the result
        future.set_exception(error)
