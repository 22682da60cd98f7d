"""Processes of Keyosk, each forked from one that has imported it.

The imports of a new program cost over a second of CPU, and tests start hundreds. Where the start
itself is tested (packages that are missing, locales, closed streams), the program is started:
``live.command``.

Run as a program, this file is what the processes are forked from. Its argument is the file
descriptor of its channel; it ends when the tests that hold the other side have ended.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, Protocol

_LONGEST = 120  # seconds that a command may take: the machine may be busy
_MESSAGE = 1 << 18  # bytes: the arguments and the environment


class Process(Protocol):
    """What tests need of a process, started or forked."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class _Forked:
    """A process that is another's child; that one says in ``status`` how it ends."""

    def __init__(self, arguments: Sequence[str], status: IO[bytes]) -> None:
        self.args = arguments
        self.pid = int(status.readline())
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(list(self.args), timeout or 0)
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode


def start(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str],
    stdin: int | IO[bytes],
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    before: Sequence[str] = (),
    script: str = "",
    start_new_session: bool = False,
) -> Process:
    """Start the ``keyosk`` command.

    ``before``: a program with its arguments that starts what the process is forked from.
    ``script``: a file of Python that is run in place of the command.
    """
    settings = {
        "cwd": str(cwd),
        "env": dict(env),
        "new_session": start_new_session,
        "script": script,
    }
    message = json.dumps({"arguments": arguments, **settings}).encode()
    read, write = os.pipe()
    try:
        numbers = [
            each if isinstance(each, int) else each.fileno() for each in (stdin, stdout, stderr)
        ]
        socket.send_fds(_channel(tuple(before)), [message], [*numbers, write])
    finally:
        os.close(write)
    return _Forked(arguments, os.fdopen(read, "rb", buffering=0))


def run(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str],
    text: bytes = b"",
    stdout: int | None = None,
    before: Sequence[str] = (),
) -> "subprocess.CompletedProcess[bytes]":
    """Run the ``keyosk`` command; what it writes is kept, unless ``stdout`` says where it goes."""
    with ExitStack() as stack:
        given, out, err = (_Pipe(stack) for _ in range(3))
        process = start(
            *arguments,
            cwd=cwd,
            env=env,
            stdin=given.reading,
            stdout=out.writing if stdout is None else stdout,
            stderr=err.writing,
            before=before,
        )
        stack.callback(process.kill)
        given.reading.close()
        with ThreadPoolExecutor(3) as pool:
            pool.submit(given.write, text)
            said = [pool.submit(each.read) for each in (out, err)]
            try:
                code = process.wait(_LONGEST)
            finally:
                process.kill()
        return subprocess.CompletedProcess(arguments, code, *(each.result() for each in said))


def execute(arguments: Sequence[str | Path], **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run another program, which may take five minutes; what it writes is kept, as text."""
    usual = {"capture_output": True, "text": True, "timeout": 300, "check": False}
    return subprocess.run(arguments, **{**usual, **options})


class _Pipe:
    """A pipe, whose ends are closed when ``stack`` is left."""

    def __init__(self, stack: ExitStack) -> None:
        reading, writing = os.pipe()
        self.reading = stack.enter_context(os.fdopen(reading, "rb"))
        self.writing = stack.enter_context(os.fdopen(writing, "wb"))

    def write(self, text: bytes) -> None:
        with suppress(BrokenPipeError), self.writing:
            self.writing.write(text)

    def read(self) -> bytes:
        self.writing.close()
        return self.reading.read()


@cache
def _channel(before: tuple[str, ...]) -> socket.socket:
    """The way to the process that others are forked from, which starts now."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        parent = subprocess.Popen(
            [*before, sys.executable, "-P", __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def end() -> None:
        ours.close()
        parent.wait(60)

    atexit.register(end)
    return ours


# --- The process that is forked -------------------------------------------------------------------


def _import_all() -> None:
    """Import what any command imports, and change nothing else."""
    import keyosk

    for found in pkgutil.walk_packages(keyosk.__path__, "keyosk."):
        if ".migrations." not in found.name and not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    with suppress(ImportError):
        importlib.import_module("psycopg")
    gc.freeze()  # a collection in each child would copy all pages


def _fork_for_each(channel: socket.socket) -> str:
    """Fork for each message; returns in the children only, what they are to run."""
    running: dict[int, tuple[int, int]] = {}  # by file descriptor: process, where its end is said
    while True:
        for ready in select.select([channel.fileno(), *running], [], [])[0]:
            if ready in running:
                process, status = running.pop(ready)
                os.close(ready)
                _say(status, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
                os.close(status)
                continue
            message, fds, _, _ = socket.recv_fds(channel, _MESSAGE, 4)
            if not message:
                os._exit(0)
            process = os.fork()
            if process == 0:
                settings = json.loads(message)
                _become(settings, fds)
                return str(settings["script"])
            _say(fds[3], process)
            running[os.pidfd_open(process)] = (process, fds[3])
            for each in fds[:3]:
                os.close(each)


def _say(status: int, number: int) -> None:
    with suppress(BrokenPipeError):  # nobody waits for it any more
        os.write(status, f"{number}\n".encode())


def _become(settings: dict[str, Any], fds: Sequence[int]) -> None:
    """Be as the program would be that was started with these settings."""
    for target, name in enumerate(("stdin", "stdout", "stderr")):
        os.dup2(fds[target], target)
        _open_anew(name, target)
    os.closerange(3, 1024)
    if settings["new_session"]:
        os.setsid()
    os.chdir(settings["cwd"])
    os.environ.clear()
    os.environ.update(settings["env"])
    time.tzset()
    sys.argv[:] = ["keyosk", *settings["arguments"]]


def _open_anew(name: str, descriptor: int) -> None:
    """Make a stream as Python does at its start, which looks whether it can seek."""
    old = getattr(sys, name)
    stream: Any = open(  # noqa: SIM115 - it stays open to the end
        descriptor,
        "r" if name == "stdin" else "w",
        buffering=1 if name == "stderr" else -1,
        encoding=old.encoding,
        errors=old.errors,
        newline=None if name == "stdin" else "\n",
        closefd=False,
    )
    stream.buffer.raw.name = f"<{name}>"
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


if __name__ == "__main__":
    _import_all()
    given = _fork_for_each(socket.socket(fileno=int(sys.argv[1])))
    if given:
        runpy.run_path(given, run_name="__main__")
    else:
        from keyosk.__main__ import main

        main()
