"""The tables: on the terminal, as JSON, and as docs/reference/performance.md."""

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import rows
import servers
import starts

_ROOT: Final = Path(__file__).parent.parent.parent
_LATEST: Final = _ROOT / "build/bench.json"
_PUBLISHED: Final = _ROOT / "docs/reference/performance.json"
_PAGE: Final = _ROOT / "docs/reference/performance.md"
_BEGIN: Final = "<!-- made by `make bench ARGS=--publish` -->\n"
_END: Final = "<!-- end -->\n"


@dataclass(frozen=True)
class Result:
    """One run: what was measured, on what, and whether the targets were met."""

    about: dict[str, Any]
    measured: list[dict[str, Any]]
    targets: list[dict[str, Any]]

    @classmethod
    def of(
        cls,
        measured_rows: Sequence[rows.Row],
        targets: Sequence[rows.Target],
        measured_starts: Sequence[starts.Start],
        *,
        arguments: argparse.Namespace,
    ) -> Self:
        """The figures of a run: medians, and ratios taken in each round."""
        about = {
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "processor": servers.processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load": round(os.getloadavg()[0], 1),
            "workers": servers.WORKERS,
            "threads": servers.THREADS,
            "connections": rows.CONNECTIONS,
            "rounds": arguments.rounds,
            "seconds": arguments.seconds,
        }
        (floor,) = [row for row in measured_rows if row.name == rows.FLOOR]
        measured = [_figures(row, floor) for row in measured_rows]
        rounds = [
            {row.name: row.samples[number] for row in measured_rows}
            for number in range(arguments.rounds)
        ]
        compared = [
            _compared(target, [target.value(samples) for samples in rounds]) for target in targets
        ]
        return cls(about, measured, compared + _compared_starts(measured_starts))

    def table(self) -> str:
        """Both tables as text."""
        about = self.about
        lines = [
            f"{about['workers']} workers of {about['threads']} threads, {about['connections']} "
            f"connections that stay open; medians of {about['rounds']} rounds of "
            f"{about['seconds']:g} s; {about['cores']} cores, load {about['load']}",
            "",
            f"{'':52}  {'CPU us':>8}  {'x floor':>7}  {'req/s':>7}  {'p50 ms':>7}  {'p99 ms':>7}",
        ]
        lines += [
            f"{row['name']:52}  {_figure(row['cpu'], 0):>8}  {_figure(row['floor'], 2):>7}  "
            f"{_figure(row['rate'], 0):>7}  {_figure(row['p50'], 1):>7}  "
            f"{_figure(row['p99'], 1):>7}"
            for row in self.measured
        ]
        lines += ["", f"{'':104}  {'measured':>10}  {'from-to':>13}  {'target':>10}"]
        for target in self.targets:
            spread = f"{target['from']:.2f}-{target['to']:.2f}"
            lines.append(
                f"{target['row'] + ': ' + target['text']:104}  {_with_unit(target, 'value'):>10}  "
                f"{spread:>13}  {_bound(target):>10}  {'met' if target['met'] else 'MISSED'}"
            )
        return "\n".join(lines)

    def write(self, *, publish: bool) -> None:
        """Write build/bench.json, and on request the published file and its page."""
        _LATEST.parent.mkdir(exist_ok=True)
        text = json.dumps(asdict(self), indent=2) + "\n"
        _LATEST.write_text(text)
        if publish:
            _PUBLISHED.write_text(text)
            write_page()


def write_page() -> None:
    """Put the published figures into docs/reference/performance.md, between its two marks."""
    before, _, rest = _PAGE.read_text().partition(_BEGIN)
    after = rest.partition(_END)[2]
    _PAGE.write_text(f"{before}{_BEGIN}\n{page_tables(_PUBLISHED)}\n{_END}{after}")


def page_tables(file: Path) -> str:
    """The tables of a page, in Markdown, from the figures of a file."""
    result = Result(**json.loads(file.read_text()))
    about = result.about
    lines = [
        f"Measured on {about['date']} on {about['cores']} cores ({about['processor']}), Python "
        f"{about['python']}, {about['workers']} workers of {about['threads']} threads, "
        f"{about['connections']} connections that stay open; medians of {about['rounds']} rounds "
        f"of {about['seconds']:g} s.",
        "",
        "| request | CPU, us | x floor | requests/s | p50, ms | p99, ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result.measured:
        figures = [
            _figure(row[name], digits)
            for name, digits in (("cpu", 0), ("floor", 2), ("rate", 0), ("p50", 1), ("p99", 1))
        ]
        lines.append(f"| {row['name']} | {' | '.join(figures)} |")
    lines += ["", "| what | measured | from-to | target | |", "| --- | ---: | ---: | ---: | --- |"]
    for target in result.targets:
        spread = f"{target['from']:.2f}-{target['to']:.2f}"
        verdict = "met" if target["met"] else "missed"
        cells = [f"{target['row']}: {target['text']}", _with_unit(target, "value"), spread]
        lines.append(f"| {' | '.join([*cells, _bound(target), verdict])} |")
    return "\n".join(lines) + "\n"


def _figures(row: rows.Row, floor: rows.Row) -> dict[str, Any]:
    pairs = zip(row.samples, floor.samples, strict=True)
    ratios = [mine.cpu / bare.cpu for mine, bare in pairs]
    cpu, share = row.median("cpu"), statistics.median(ratios)
    has_cpu = cpu is not None and not math.isnan(cpu)
    return {
        "name": row.name,
        "cpu": cpu if has_cpu else None,
        "floor": share if has_cpu else None,
        "rate": row.median("rate"),
        "p50": row.median("p50"),
        "p99": row.median("p99"),
    }


def _compared_starts(measured_starts: Sequence[starts.Start]) -> list[dict[str, Any]]:
    if not measured_starts:
        return []
    bounds = (
        ("start on an existing database to the first token", 0.5, " s", "seconds"),
        ("start on an existing database / start of the floor", 1.5, "x", "ratio"),
        ("memory of all processes (PSS) under API keys", 100.0, " MiB", "under_keys"),
        ("memory of all processes (PSS) under passwords", 130.0, " MiB", "under_passwords"),
    )
    return [
        _compared(
            rows.Target("SQLite", text, limit, _no_sample, unit=unit),
            [getattr(start, name) for start in measured_starts],
        )
        for text, limit, unit, name in bounds
    ]


def _no_sample(_: object) -> float:
    raise AssertionError("taken from starts")


def _compared(target: rows.Target, values: Sequence[float]) -> dict[str, Any]:
    value = statistics.median(values)
    return {
        "row": target.row,
        "text": target.text,
        "value": value,
        "from": min(values),
        "to": max(values),
        "limit": target.limit,
        "at_least": target.at_least,
        "unit": target.unit,
        "met": target.is_met_by(value),
    }


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _with_unit(target: dict[str, Any], name: str) -> str:
    return f"{target[name]:.2f}{target['unit']}"


def _bound(target: dict[str, Any]) -> str:
    sign = ">=" if target["at_least"] else "<="
    return f"{sign} {target['limit']:g}{target['unit']}"
