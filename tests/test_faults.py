"""The faults that ``make faults`` plants have a place in the program, and tests to find them."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_fault_can_be_planted() -> None:
    faults = tomllib.loads((ROOT / "tools/faults.toml").read_text())["fault"]
    assert len(faults) > 30
    assert {fault["name"] for fault in faults if _count(fault) != 1} == set()
    tests = {path for fault in faults for path in fault["tests"].split() if path[0] != "-"}
    assert [path for path in sorted(tests) if not (ROOT / path).is_file()] == []
    assert len({fault["name"] for fault in faults}) == len(faults)


def _count(fault: dict[str, str]) -> int:
    return (ROOT / fault["file"]).read_text().count(fault["find"])
