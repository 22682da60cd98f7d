"""A limit on concurrent work of one kind on a machine, across all of its processes."""

import fcntl
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Final, NoReturn

from keyosk.errors import Unavailable
from keyosk.metrics import Metrics

#: Moves the request of this thread to a thread for slow requests; ``None`` in such a thread. It
#: raises, and the request starts again there, so nothing before it may have an effect.
hand_over: Final[ContextVar[Callable[[], NoReturn] | None]] = ContextVar("hand_over", default=None)
#: Seconds between two attempts to get a slot, while all are taken.
_LOOK: Final = 0.002
#: Seconds that a process with a slot waits before it takes another.
_PATIENCE: Final = 0.01


class HashingLimit:
    """A limit of ``number`` slots for all threads of all processes with the same folder.

    A slot is a locked file, so the kernel frees it when its holder dies.

    Processes share the slots evenly. A process passes its slot from thread to thread, and takes a
    second one only if no process with fewer slots wants it. So a process seldom needs the memory of
    two hashes, and waiting threads seldom look at the files.
    """

    def __init__(
        self,
        number: int,
        *,
        folder: Path | None = None,
        timeout: float = 4.0,
        patience: float = _PATIENCE,
        metrics: Metrics | None = None,
    ) -> None:
        """Set ``folder`` (``None``: for this process only) and ``timeout``, the seconds to wait.

        ``patience``: the seconds between two looks for a further slot. ``metrics`` counts waiting
        and running hashes.
        """
        self.number = number
        self._metrics = metrics or Metrics()
        self._files = None if folder is None else [str(folder / str(n)) for n in range(number)]
        self._timeout = timeout
        self._patience = patience
        self._process_slots = threading.Semaphore(number)
        self._looking = threading.Lock()
        self._held = threading.local()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold a slot; a thread that has one keeps it. Raises ``Unavailable`` after a wait.

        In a thread for fast requests it moves the request to another thread instead of waiting.
        """
        # SECURITY: here, where every slow request passes. A list of slow requests would miss one,
        # and that one would occupy the threads that all others need.
        elsewhere = hand_over.get()
        if elsewhere is not None:
            elsewhere()
        if getattr(self._held, "any", False):
            yield
            return
        self._metrics.hash_waits()
        began = None
        try:
            with self._slot(time.monotonic() + self._timeout):
                self._metrics.hash_begins()
                began = time.perf_counter()
                self._held.any = True
                try:
                    yield
                finally:
                    self._held.any = False
        finally:
            if began is None:
                self._metrics.hash_refused()
            else:
                self._metrics.hash_ended(time.perf_counter() - began)

    @contextmanager
    def _slot(self, deadline: float) -> Iterator[None]:
        if not self._process_slots.acquire(timeout=self._timeout):
            raise _busy()
        try:
            if self._files is None:
                yield
                return
            with ExitStack() as held:
                self._lock_file(self._files, deadline, held)
                yield
        finally:
            self._process_slots.release()

    def _lock_file(self, files: Sequence[str], deadline: float, exit_stack: ExitStack) -> None:
        """Lock one of the files; the first thread of a process looks at them more often."""
        is_first = False
        while True:
            if not is_first and self._looking.acquire(timeout=self._patience):
                exit_stack.callback(self._looking.release)
                is_first = True
            handle = _locked(files)
            if handle is not None:
                exit_stack.callback(os.close, handle)
                return
            if time.monotonic() >= deadline:
                raise _busy()
            if is_first:
                time.sleep(_LOOK)


def _locked(files: Sequence[str]) -> int | None:
    """Open a file and lock it while it is open; ``None`` if all are locked."""
    for file in files:
        # Opened each time, because a lock belongs to the open file, not to the process.
        try:
            handle = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:  # no room on the disk, or no descriptor left
            raise _busy() from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
        else:
            return handle
    return None


def _busy() -> Unavailable:
    return Unavailable("Too many logins by password are waiting.")


def for_hashes(memory_kib: int) -> int:
    """Return how many password hashes of this much memory the machine can compute at once.

    One for each core, as far as they fit into a quarter of the available memory.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, _memory() // 4 // (memory_kib * 1024)))


def machine_folder() -> Path | None:
    """Return the folder whose slots all processes of this user on this machine share.

    ``None`` if there is none, for example in a container without a writable ``/tmp``.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"keyosk-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    # SECURITY: another user may have created something with that name.
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return folder if ours and not stat.S_IMODE(status.st_mode) & 0o077 else None


def _memory() -> int:
    """Return the memory that this process may use: the cgroup's limit, or the machine's."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(path).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min(limits)
