"""Identifiers and versions."""

import time

from keyosk.ids import new_version


def test_a_version_is_larger_than_one_of_a_moment_before() -> None:
    """Within a millisecond too: an object may be deleted and made anew in less."""
    given = [new_version()]
    while len(given) < 1000:
        a_microsecond_later = time.time_ns() + 1000
        while time.time_ns() < a_microsecond_later:
            pass
        given.append(new_version())
    assert given == sorted(set(given))
