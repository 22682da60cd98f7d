"""argon2id (RFC 9106) in memory that is kept and reused for the next hash.

A hash fills 19 MiB. Fresh memory costs 4,864 page faults, which take half as long as the hash. The
C library does keep freed memory, but it fragments it with small allocations and returns it when two
hashes end together. Blocks of our own avoid that. On Linux they use huge pages (2 MiB): 265 faults,
and the hash itself takes a tenth less.

The computation is that of argon2's reference implementation; only the memory comes from here.
"""

import mmap
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Self

from argon2.low_level import Type, core, error_to_str, ffi

_VERSION: Final = 0x13
_OUT_OF_MEMORY: Final = -22  # ARGON2_MEMORY_ALLOCATION_ERROR
#: Seconds after which an unused block is returned to the system.
_KEPT: Final = 0.25
#: The same when a hash ends, for the other free blocks: fewer may be needed now.
_SPARE_KEPT: Final = 0.05


def derive(
    secret: bytes, salt: bytes, *, memory_kib: int, passes: int, lanes: int, length: int
) -> bytes:
    """Return the raw hash.

    Raises:
        MemoryError: There is not enough memory.
        ValueError: argon2 refuses the parameters.
    """
    result = ffi.new("uint8_t[]", length)
    # SECURITY: C holds no reference to these objects, so the names must stay alive.
    password_buffer = ffi.new("uint8_t[]", secret)
    salt_buffer = ffi.new("uint8_t[]", salt)
    fields = {
        "out": result,
        "outlen": length,
        "version": _VERSION,
        "pwd": password_buffer,
        "pwdlen": len(secret),
        "salt": salt_buffer,
        "saltlen": len(salt),
        "t_cost": passes,
        "m_cost": memory_kib,
        "lanes": lanes,
        "threads": lanes,
        "allocate_cbk": _allocate,
        "free_cbk": _free,
    }
    code = core(ffi.new("argon2_context *", fields), Type.ID.value)
    if code == _OUT_OF_MEMORY:
        raise MemoryError
    if code != 0:
        raise ValueError(error_to_str(code))
    return bytes(ffi.buffer(result, length))


@dataclass(slots=True)
class _Block:
    memory: mmap.mmap
    size: int
    pointer: Any = field(init=False)
    used_at: float = 0.0

    def __post_init__(self) -> None:
        self.pointer = ffi.from_buffer("uint8_t[]", self.memory, require_writable=True)

    @classmethod
    def new(cls, size: int) -> Self:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel without them
                memory.madvise(mmap.MADV_HUGEPAGE)
        return cls(memory, size)


class _Blocks:
    """The memory blocks of this process: those in use, by address, and the free ones."""

    def __init__(self) -> None:
        self._begin()
        # After a fork, the child has the blocks of its parent, but none of its threads.
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._used: dict[int, _Block] = {}
        self._free: list[_Block] = []
        self._timer: threading.Timer | None = None

    def acquire(self, size: int) -> Any:
        """Return a pointer to an unused block. Raises ``OSError``."""
        with self._lock:
            # The most recently used one, so that the others can be returned.
            block = next((free for free in reversed(self._free) if free.size == size), None)
            if block is not None:
                self._free.remove(block)
        if block is None:
            block = _Block.new(size)
        with self._lock:
            self._used[_address(block.pointer)] = block
        return block.pointer

    def release(self, pointer: Any) -> None:
        """Keep a block for the next hash. argon2 has overwritten what was in it."""
        with self._lock:
            block = self._used.pop(_address(pointer))
            block.used_at = time.monotonic()
            self._free = [*self._used_within(_SPARE_KEPT), block]
            self._schedule_return()

    def return_unused(self) -> None:
        """Return blocks to the system that were not used for a while."""
        with self._lock:
            self._timer = None
            self._free = self._used_within(_KEPT)
            if self._free:
                self._schedule_return()

    def _used_within(self, seconds: float) -> list[_Block]:
        latest = time.monotonic() - seconds
        return [block for block in self._free if block.used_at > latest]

    def _schedule_return(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(_KEPT, self.return_unused)
            self._timer.daemon = True
            self._timer.start()


def _address(pointer: Any) -> int:
    return int(ffi.cast("uintptr_t", pointer))


_blocks: Final = _Blocks()


def _acquire_block(memory: Any, size: int) -> int:
    try:
        memory[0] = _blocks.acquire(size)
    except (OSError, MemoryError):
        memory[0] = ffi.NULL  # argon2 reports this as a lack of memory
    return 0


def _callbacks() -> tuple[Any, Any]:
    """Return argon2's memory callbacks; NULL (malloc) if the system forbids callbacks."""
    try:
        acquire = ffi.callback("int(uint8_t **, size_t)", _acquire_block)
        release = ffi.callback("void(uint8_t *, size_t)", lambda memory, _: _blocks.release(memory))
    except (MemoryError, OSError, SystemError):
        return ffi.NULL, ffi.NULL
    return acquire, release


_allocate, _free = _callbacks()
