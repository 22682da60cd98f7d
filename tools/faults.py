"""Mutation testing of the defences: plants one fault at a time, and expects a test to find it.

``python tools/faults.py [WORD]`` copies the program or a client library, replaces one line of the
copy, and runs the tests that are named beside it in ``faults.toml``. A fault that no test finds is
a defence that nobody would miss. ``WORD`` chooses the faults whose name has it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Final, TypedDict

ROOT: Final = Path(__file__).resolve().parents[1]
_LONGEST: Final = 600  # seconds for the tests of one fault


class Fault(TypedDict):
    """One line to replace, and the tests that must fail then."""

    name: str
    file: str
    find: str
    replace: str
    tests: str


def main(word: str = "") -> int:
    """Plant each fault; returns how many no test found, or could not be planted any more."""
    faults: list[Fault] = tomllib.loads((ROOT / "tools" / "faults.toml").read_text())["fault"]
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        for fault in faults:
            if word in fault["name"]:
                said = planted(fault, Path(folder))
                missed += said != "found"
                print(f"{said:>9}  {fault['name']}", flush=True)
    return missed


def planted(fault: Fault, folder: Path) -> str:
    """Plant one fault in a copy in ``folder`` and run its tests.

    Returns ``found`` or ``missed``; ``stale`` if the line is not there exactly once, ``broken`` if
    the tests cannot be run with it.
    """
    ignored = shutil.ignore_patterns("__pycache__", "node_modules")
    for part in ("keyosk", "client/keyosk_client", "client-node"):
        shutil.rmtree(folder / part, ignore_errors=True)
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    path = folder / fault["file"]
    text = path.read_text()
    if text.count(fault["find"]) != 1:
        return "stale"
    path.write_text(text.replace(fault["find"], fault["replace"]))
    # Before the installed one on the path, also for the servers and commands that tests start.
    places = f"{folder}{os.pathsep}{folder / 'client'}"
    environment = {**os.environ, "PYTHONPATH": places, "PYTHONDONTWRITEBYTECODE": "1"}
    environment["CLIENT_NODE"] = str(folder / "client-node")
    # -P: otherwise the folder that pytest runs in would come before the copy.
    command = [sys.executable, "-P", "-m", "pytest", "-x", "-q", "-n", "0", "--backend", "sqlite"]
    ran = subprocess.run(
        [*command, *fault["tests"].split()],
        check=False,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_LONGEST,
    )
    # A fault that stops the program from starting does not test the defence.
    if ran.returncode not in (0, 1) or " error" in ran.stdout.splitlines()[-1]:
        return "broken"
    return "found" if ran.returncode else "missed"


if __name__ == "__main__":
    sys.exit(1 if main(*sys.argv[1:]) else 0)
