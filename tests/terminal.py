"""Commands in the test's own process: a new process for each costs half a second."""

import io
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from keyosk.cli import main


@dataclass(frozen=True)
class Done:
    """How a command ended and what it said."""

    code: Any
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)

    def refused(self, *, sentences: int = 1) -> str:
        """The sentences of a refusal, after a look at the form of every refusal."""
        assert (self.code, self.out) == (1, ""), self
        assert self.err.count("\n") == sentences, self.err
        assert all(line.startswith("keyosk: ") for line in self.err.splitlines()), self.err
        return self.err


def keyosk(
    environment: Mapping[str, str],
    folder: Path,
    *arguments: str,
    text: str = "",
    screen: bool = False,
) -> Done:
    """Run one command; any exception but SystemExit would be a traceback on the terminal.

    ``environment``: all of Keyosk's settings that it sees, and libpq's. ``screen``: somebody reads
    standard output.
    """
    stdin = io.TextIOWrapper(_Input(text.encode()), "utf-8")
    out, err = (
        kind(io.BytesIO(), "utf-8", write_through=True)
        for kind in (_Screen if screen else io.TextIOWrapper, io.TextIOWrapper)
    )
    code: Any = 0
    with _log_kept(), pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("KEYOSK_")]:
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["keyosk", *arguments])
        patch.setattr(sys, "stdin", stdin)
        with redirect_stdout(out), redirect_stderr(err):
            try:
                main()
            except SystemExit as end:
                code = end.code or 0
    return Done(code, *(_written(stream) for stream in (out, err)))


@contextmanager
def _log_kept() -> Iterator[None]:
    """``serve`` has its process log, which here is the process of all tests."""
    log = logging.getLogger()
    handlers, level = log.handlers[:], log.level
    try:
        yield
    finally:
        log.handlers[:] = handlers
        log.setLevel(level)


class _Screen(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


class _Input(io.BytesIO):
    name = "<stdin>"


def _written(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()
