"""When an outage of the database begins and ends for the log."""

import logging
from types import SimpleNamespace

import pytest

from keyosk.errors import Unavailable
from keyosk.storage import outage
from keyosk.storage.database import Database
from keyosk.storage.outage import OutageLog
from postgres import PostgresServer

FULL = Unavailable("The database is not available.", reason="no room")


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(outage, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_writes_that_succeed_on_a_full_disk_do_not_end_its_outage(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    log = OutageLog()
    for _ in range(5):
        log.begin(FULL, reads=False, is_full=True)
        clock.now += 50
        log.end(reads=False)
    assert (log.is_on, len(caplog.records)) == (True, 1)
    clock.now += 11
    log.end(reads=True)  # a read tells nothing of writes
    assert log.is_on
    log.end(reads=False)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert not log.is_on


def test_how_long_an_outage_was_is_known_while_it_goes_on_and_for_a_while(clock: Clock) -> None:
    log = OutageLog()
    assert log.seconds(within=10) == 0
    log.begin(FULL, reads=True)
    clock.now += 20
    # It may have begun before a statement failed by it.
    assert log.seconds(within=10) == 20 + outage._UNNOTICED
    clock.now += 20
    log.end(reads=True)
    clock.now += 10
    assert log.seconds(within=10) == 40 + outage._UNNOTICED
    clock.now += 1
    assert log.seconds(within=10) == 0


def test_another_outage_of_writes_ends_with_the_first_that_succeeds(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    log = OutageLog()
    log.begin(FULL, reads=False)
    log.end(reads=False)
    assert (log.is_on, len(caplog.records)) == (False, 2)


def test_reads_do_not_end_the_outage_of_a_standby_that_cannot_be_migrated(
    clock: Clock, postgres_server: PostgresServer
) -> None:
    url, log = postgres_server.create_database(), OutageLog()
    postgres_server.set_for(url, "default_transaction_read_only", "on")
    database = Database(url, outage_log=log)
    with pytest.raises(Unavailable), database.driver_errors():
        database.raw.execute_sql("CREATE TABLE migration (number integer)")
    clock.now += 10
    database.ping()
    assert log.is_on
    database.close()
    postgres_server.drop_database(url)
