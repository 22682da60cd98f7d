"""Files that are named as settings or secrets and are something else."""

import io
import os
import threading
from pathlib import Path

import pytest

from keyosk import small_files
from keyosk.cli import shared
from keyosk.small_files import MOST
from live import LiveServer

MiB = 1024 * 1024
SHORT = 0.05  # seconds


def test_a_file_is_read_whole_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    for content in (b"", b"word\n", b"x" * MOST):
        path.write_bytes(content)
        assert small_files.read(path) == content


def test_what_is_larger_or_has_no_end_is_refused(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.touch()
    for size in (MOST + 1, 1024 * MiB):
        os.truncate(large, size)
        for path in (large, Path("/dev/zero")):
            with pytest.raises(OSError, match="it has more than 1 MiB"):
                small_files.read(path)


def test_a_pipe_is_read_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)

    def write() -> None:
        with path.open("wb") as pipe:  # it waits for the reader
            for _ in range(3):
                pipe.write(b"x" * 100_000)

    writer = threading.Thread(target=write)
    writer.start()
    assert small_files.read(path) == b"x" * 300_000
    writer.join()


def test_a_pipe_that_nobody_writes_to_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="nobody writes to this pipe"):
        small_files.read(path, patience=SHORT)
    writer = os.open(path, os.O_RDWR)  # opened, but it is silent
    try:
        os.write(writer, b"begun")
        with pytest.raises(OSError, match="nobody writes to this pipe"):
            small_files.read(path, patience=SHORT)
    finally:
        os.close(writer)


class _Endless(io.TextIOBase):
    """What /dev/zero is as standard input; to read it all would take all memory."""

    def readline(self, size: int | None = -1) -> str:  # type: ignore[override]
        assert size is not None
        assert 0 < size <= MOST
        return "\0" * size

    def isatty(self) -> bool:
        return False


def test_a_line_without_an_end_is_not_read_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", _Endless())
    assert len(shared.read_secret("Password")) == MOST


def test_a_manifest_has_a_largest_size_too(server: LiveServer) -> None:
    done = server.run("apply", "/dev/zero")
    assert (done.returncode, done.stderr) == (1, "keyosk: /dev/zero: has more than 16 MiB\n")
