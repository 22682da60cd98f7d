"""Measures how the cost of requests grows with what is stored.

``make growth`` fills databases of several sizes, and sends the same requests to a Keyosk in this
very process on each of them in turn, round after round. What counts is CPU time: of this process,
and on PostgreSQL of the backend that serves it. Absolute figures say little about another machine;
the ratio to the smallest size, taken within a round, says whether a cost is flat.
"""

import argparse
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import axes
import report

import nodes

_ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(_ROOT / "tests"))  # for the PostgreSQL that the tests start

_SIZES = {
    "accounts": "1000,10000,100000",
    "services": "10,1000",
    "grants": "1,50",
    "revocations": "0,100000",
    "audit": "10000,200000",
    "nodes": "1,2,4",
}


def main() -> int:
    """Measure and print; returns the exit code."""
    arguments = _arguments()
    if arguments.page:
        report.write_page()
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sizes_by_axis = {
        name: [int(size) for size in getattr(arguments, name).split(",")]
        for name in _SIZES
        if not arguments.only or name in arguments.only.split(",")
    }
    tables = []
    with tempfile.TemporaryDirectory(prefix="keyosk-growth-") as folder, ExitStack() as running:
        for database in ("SQLite", "PostgreSQL"):
            if arguments.database not in ("both", database.lower()):
                continue
            new = _databases(Path(folder), running, database)
            for name, sizes in sizes_by_axis.items():
                if name == "nodes" and database == "SQLite":
                    continue  # it has one machine
                print(f"{name} on {database}", file=sys.stderr)
                title, measured = _measure(
                    name, sizes, new, folder=Path(folder), rounds=arguments.rounds
                )
                tables.append(report.Table.of(title, database, sizes=sizes, measured=measured))
                print(tables[-1].text(), flush=True)
    report.write(tables, arguments, publish=arguments.publish)
    return 0


def _measure(
    name: str, sizes: list[int], new: axes.NewDatabase, *, folder: Path, rounds: int
) -> tuple[str, list[axes.Measured]]:
    """Return the title of a table and its measurements."""
    if name == "nodes":
        return nodes.TITLE, nodes.measure(sizes, new(), folder, rounds=rounds)
    axis = axes.ALL[name]
    return axis.title, axes.measure(axis, sizes, new, rounds=rounds)


def _databases(folder: Path, running: ExitStack, database: str) -> axes.NewDatabase:
    """Return a function that returns the URL of a new, empty database."""
    if database == "SQLite":
        numbers = iter(range(1_000))
        return lambda: f"sqlite:///{folder / f'{next(numbers)}.db'}"
    from postgres import PostgresServer  # noqa: PLC0415  # it is in tests/

    server = running.enter_context(PostgresServer(durable=True))
    return server.create_database


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make growth", description="Measure how costs grow.")
    add = parser.add_argument
    for name, sizes in _SIZES.items():
        add(f"--{name}", metavar="N,N", default=sizes, help=f"sizes, the smallest first ({sizes})")
    add("--only", metavar="NAME,NAME", help="only these tables: " + ", ".join(_SIZES))
    add("--database", choices=("both", "sqlite", "postgresql"), default="both")
    add("--rounds", type=int, default=5, help="how often each is measured (5)")
    add("--publish", action="store_true", help="also write docs/reference/growth.json and its page")
    add("--page", action="store_true", help="measure nothing: write the page from the file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
