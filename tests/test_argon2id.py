"""argon2id in memory that is kept: the same hashes, without what each would cost anew."""

import os
import re
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from argon2.low_level import Type, hash_secret_raw
from hypothesis import given, settings
from hypothesis import strategies as st

from keyosk.credentials import argon2id
from waiting import until

SALT = b"0123456789abcdef"
SIZE_KIB = 19_456


def derive(secret: bytes, *, memory_kib: int = SIZE_KIB) -> bytes:
    return argon2id.derive(secret, SALT, memory_kib=memory_kib, passes=2, lanes=1, length=32)


def reference(secret: bytes, *, memory_kib: int = SIZE_KIB) -> bytes:
    return hash_secret_raw(secret, SALT, 2, memory_kib, 1, 32, Type.ID)


@settings(max_examples=60, deadline=None)
@given(
    secret=st.binary(max_size=200),
    salt=st.binary(min_size=8, max_size=40),
    passes=st.integers(1, 3),
    lanes=st.integers(1, 4),
    extra=st.integers(0, 100),
    length=st.integers(4, 80),
)
def test_a_hash_is_that_of_argon2s_reference_implementation(
    secret: bytes, salt: bytes, passes: int, lanes: int, extra: int, length: int
) -> None:
    memory = 8 * lanes + extra
    computed = argon2id.derive(
        secret, salt, memory_kib=memory, passes=passes, lanes=lanes, length=length
    )
    assert computed == hash_secret_raw(secret, salt, passes, memory, lanes, length, Type.ID)


@pytest.mark.parametrize(
    ("memory_kib", "passes", "salt"), [(1, 1, SALT), (64, 0, SALT), (64, 1, b"short")]
)
def test_parameters_that_argon2_refuses_raise(memory_kib: int, passes: int, salt: bytes) -> None:
    with pytest.raises(ValueError, match="too"):
        argon2id.derive(b"x", salt, memory_kib=memory_kib, passes=passes, lanes=1, length=32)


def test_hashes_at_once_have_memory_of_their_own() -> None:
    secrets = [str(number).encode() for number in range(12)]
    with ThreadPoolExecutor(4) as threads:
        computed = list(threads.map(lambda each: derive(each, memory_kib=1024), secrets))
    assert computed == [reference(each, memory_kib=1024) for each in secrets]


def test_the_next_hash_takes_no_page_faults() -> None:
    """A block is 4,864 pages of 4 KiB."""
    faults = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        derive(b"next")
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    # On a busy machine one may come after the block was returned.
    assert min(faults) < 1000


def test_nothing_of_a_hash_stays_in_its_block() -> None:
    kept: list[bytes] = []
    for _ in range(20):
        derive(b"secret")
        with argon2id._blocks._lock:
            kept = [bytes(block.memory) for block in argon2id._blocks._free]
        if kept:  # on a busy machine it may have been returned already
            break
    assert kept
    assert all(each == bytes(len(each)) for each in kept)


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists(),
    reason="this kernel has no huge pages",
)
def test_a_block_asks_for_huge_pages() -> None:
    """Whether it gets them is for the kernel to say: on a fragmented machine it has none."""
    block = argon2id._Block.new(SIZE_KIB * 1024)
    flags = flags_of(argon2id._address(block.pointer))
    assert "hg" in flags.split()


def flags_of(address: int) -> str:
    """The flags of the mapping at an address of this process."""
    is_it = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        bounds = re.match("([0-9a-f]+)-([0-9a-f]+) ", line)
        if bounds is not None:
            is_it = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif is_it and line.startswith("VmFlags:"):
            return line
    raise AssertionError("no such mapping")


def test_a_block_that_is_not_needed_is_returned_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that did two hashes at once and now does one holds one block, not two."""
    until(lambda: not argon2id._blocks._free)
    monkeypatch.setattr(argon2id, "_KEPT", 3600)  # the timer does not help
    monkeypatch.setattr(argon2id, "_SPARE_KEPT", 3600)
    blocks = argon2id._Blocks()
    one, other = blocks.acquire(4096), blocks.acquire(4096)
    blocks.release(one)
    blocks.release(other)
    assert len(blocks._free) == 2
    monkeypatch.setattr(argon2id, "_SPARE_KEPT", 0)
    blocks.release(blocks.acquire(4096))
    assert len(blocks._free) == 1
    assert argon2id._address(blocks._free[0].pointer) == argon2id._address(other)
    assert blocks._timer is not None
    blocks._timer.cancel()


def test_a_block_that_nobody_uses_is_returned() -> None:
    derive(b"once")
    until(lambda: not argon2id._blocks._free)


def test_a_child_has_blocks_of_its_own_and_returns_them() -> None:
    derive(b"parent")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if derive(b"child") == reference(b"child"):
                until(lambda: not argon2id._blocks._free)
                code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
