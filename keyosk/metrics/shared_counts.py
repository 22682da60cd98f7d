"""Counters in memory that several processes share."""

import json
import mmap
import os
import struct
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Final

#: Bytes of each part, enough for some thousand numbers.
_PART: Final = 256 * 1024
_HEAD: Final = struct.Struct("=qq")  # the process that has the part; the bytes that are used
_ENTRY: Final = struct.Struct("=dq")  # the number, and the length of its name, which follows
#: Bytes of a number: ``numbers`` has the one at a place under the place divided by this.
NUMBER: Final = 8


class SharedCounts:
    """Named numbers of several processes, in memory. Created by the process that starts them."""

    def __init__(self, processes: int) -> None:
        """Allocate parts for ``processes`` workers, and as many again for their replacement."""
        parts = min(2 * processes + 2, 255)
        self._memory = mmap.mmap(-1, parts * _PART)
        #: The whole memory as numbers; each number is aligned.
        self.numbers = memoryview(self._memory).cast("d")
        self.started_at = time.time()
        # Every page is written now, because a lack of memory later would be a SIGBUS.
        for place in range(0, parts * _PART, mmap.PAGESIZE):
            self._memory[place] = 0
        for part in range(parts):
            _HEAD.pack_into(self._memory, part * _PART, 0, _HEAD.size)
        # A byte for each free part: the process that reads it owns the part.
        self._free, self._give = os.pipe()
        os.set_blocking(self._free, False)
        os.write(self._give, bytes(range(parts)))
        self._parts = parts
        self._mine: tuple[int, int] | None = None

    def claim(self) -> int | None:
        """Return the part of this process, always the same; ``None`` if none is left."""
        if self._mine is not None and self._mine[0] == os.getpid():
            return self._mine[1]
        with suppress(OSError):
            for part in os.read(self._free, 1):
                self._mine = (os.getpid(), part)
                used = _HEAD.unpack_from(self._memory, part * _PART)[1]
                _HEAD.pack_into(self._memory, part * _PART, os.getpid(), used)
                return part
        return None

    def release(self, process: int, *, passing: Collection[str] = ()) -> None:
        """Release the part of a process that ended, for its successor.

        ``passing``: the gauges of the process, which are reset.
        """
        for part in range(self._parts):
            owner, used = _HEAD.unpack_from(self._memory, part * _PART)
            if owner != process:
                continue
            for name, place, _ in self.entries(part):
                if json.loads(name)[0] in passing:
                    self.numbers[place // NUMBER] = 0.0
            _HEAD.pack_into(self._memory, part * _PART, 0, used)
            with suppress(OSError):
                os.write(self._give, bytes((part,)))

    def entries(self, part: int) -> Iterator[tuple[str, int, float]]:
        """Return the names in a part, with the places and values of their numbers."""
        start = part * _PART
        end = start + _HEAD.unpack_from(self._memory, start)[1]
        place = start + _HEAD.size
        while place < end:
            number, length = _ENTRY.unpack_from(self._memory, place)
            name = self._memory[place + _ENTRY.size : place + _ENTRY.size + length]
            yield name.decode(), place, number
            place += _ENTRY.size + -(-length // 8) * 8

    def insert(self, part: int, name: str) -> int | None:
        """Add a number, 0, and return its place; ``None`` if the part is full."""
        start = part * _PART
        owner, used = _HEAD.unpack_from(self._memory, start)
        text = name.encode()
        after = used + _ENTRY.size + -(-len(text) // 8) * 8
        if after > _PART:
            return None
        place: int = start + used
        _ENTRY.pack_into(self._memory, place, 0.0, len(text))
        self._memory[place + _ENTRY.size : place + _ENTRY.size + len(text)] = text
        _HEAD.pack_into(self._memory, start, owner, after)  # visible from now on
        return place

    def processes(self) -> int:
        """Return how many processes have a part."""
        heads = (_HEAD.unpack_from(self._memory, part * _PART) for part in range(self._parts))
        return sum(owner != 0 for owner, _ in heads)

    def totals(self) -> dict[str, float]:
        """Return all numbers by their names, added up over all parts."""
        totals: dict[str, float] = defaultdict(float)
        for part in range(self._parts):
            for name, _, number in self.entries(part):
                totals[name] += number
        return totals
