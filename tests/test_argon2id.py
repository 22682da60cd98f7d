"""argon2id in memory that is kept: the same hashes, without what each would cost anew."""

import os
import resource
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from argon2.low_level import Type, hash_secret_raw
from hypothesis import given, settings
from hypothesis import strategies as st

from keyosk.credentials import argon2id

SALT = b"0123456789abcdef"
SIZE_KIB = 19_456


def derive(secret: bytes, *, memory_kib: int = SIZE_KIB) -> bytes:
    return argon2id.derive(secret, SALT, memory_kib=memory_kib, passes=2, lanes=1, length=32)


def reference(secret: bytes, *, memory_kib: int = SIZE_KIB) -> bytes:
    return hash_secret_raw(secret, SALT, 2, memory_kib, 1, 32, Type.ID)


def wait_until_returned() -> None:
    deadline = time.monotonic() + 20
    while argon2id._blocks._free:
        assert time.monotonic() < deadline
        time.sleep(0.02)


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


def test_a_block_that_nobody_uses_is_returned() -> None:
    derive(b"once")
    wait_until_returned()


def test_a_child_has_blocks_of_its_own_and_returns_them() -> None:
    derive(b"parent")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if derive(b"child") == reference(b"child"):
                wait_until_returned()
                code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
