"""Measures what Keyosk's requests cost, beside what any Flask application costs on this machine.

``make bench`` starts real servers: a bare Flask JSON route under gunicorn's threaded worker (the
floor), oidc-provider where npm can install it, and a whole Keyosk on SQLite and on PostgreSQL. It
measures them in turn, round after round, so that other load on the machine affects all of them
alike. What counts is the CPU time of a server's processes for one request: unlike requests per
second it hardly depends on how many cores there are and who else uses them. Absolute figures say
nothing on another machine; ratios within a round do. Each response and each token is
verified.
"""

import argparse
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import report
import rows
import servers
import starts

_ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(_ROOT / "tests"))  # for the PostgreSQL that the tests start


def main() -> int:
    """Measure and print; returns the exit code."""
    arguments = _arguments()
    if arguments.page:
        report.write_page()
        return 0
    if not Path("/proc/self/smaps_rollup").exists():
        print("This needs Linux's /proc, to read what the servers take.", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="keyosk-bench-") as name, ExitStack() as running:
        folder = Path(name)
        every, bounds = _start(folder, running, arguments)
        for row in every:  # the first requests open connections and fill caches
            row.samples.append(row.measure(row, 0.3 * row.seconds))
        for row in every:
            row.samples.clear()
        for number in range(arguments.rounds):
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
            for row in every:
                row.samples.append(row.measure(row, arguments.seconds * row.seconds))
        running.close()
        begun = starts.measure(folder, seconds=arguments.seconds) if arguments.starts else []
    result = report.Result.of(every, bounds, begun, arguments=arguments)
    print(result.table())
    result.write(publish=arguments.publish)
    return 0


def _start(
    folder: Path, running: ExitStack, arguments: argparse.Namespace
) -> tuple[list[rows.Row], list[rows.Target]]:
    """Start all servers; returns the rows and their targets."""
    floor = running.enter_context(servers.floor(folder))
    peer = running.enter_context(servers.peer(folder)) if arguments.peer else None
    every = [*rows.reference_rows(floor, peer), rows.hashing_row()]
    bounds = []
    for database in ("SQLite", "PostgreSQL"):
        if arguments.database not in ("both", database.lower()):
            continue
        url, bare = _database(folder, running, database)
        settings = {"KEYOSK_LOG_LEVEL": arguments.log_level}
        server = running.enter_context(servers.keyosk(folder, url, settings=settings))
        servers.wait_for(server, "/health/ready")
        every += rows.keyosk_rows(server, database, bare)
        bounds += rows.targets(database, with_peer=peer is not None)
    if arguments.rows:
        bounds = [each for each in bounds if arguments.rows in each.row]
        kept = {name for each in bounds for name in (each.row, *each.beside)} | {rows.FLOOR}
        every = [row for row in every if row.name in kept or arguments.rows in row.name]
    return every, bounds


def _database(folder: Path, running: ExitStack, database: str) -> tuple[str, str]:
    """The URLs of a new database for Keyosk, and of one on the same disk for bare transactions."""
    if database == "SQLite":
        return f"sqlite:///{folder / 'keyosk.db'}", str(folder / "bare.db")
    from postgres import PostgresServer  # noqa: PLC0415  # it is in tests/

    server = running.enter_context(PostgresServer(durable=True))
    return server.create_database(), server.create_database()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure Keyosk's requests.")
    add = parser.add_argument
    add("--seconds", type=float, default=1.2, help="how long one measurement lasts (1.2)")
    add("--rounds", type=int, default=5, help="how often each is measured (5)")
    add("--database", choices=("both", "sqlite", "postgresql"), default="both")
    add("--rows", metavar="TEXT", help="only rows with this in their name")
    add("--log-level", default="info", help="Keyosk's; at info, its default, it logs each request")
    add("--no-peer", dest="peer", action="store_false", help="without oidc-provider")
    add("--no-starts", dest="starts", action="store_false", help="without start and memory")
    add("--publish", action="store_true", help="also write the page of performance and its JSON")
    add("--page", action="store_true", help="measure nothing: write the page from the file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
