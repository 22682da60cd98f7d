"""Identifiers that never repeat and sort by their time of creation."""

import re
import time
from typing import Final

from uuid_utils import uuid7

_FORM: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def new_id() -> str:
    """A UUIDv7 (RFC 9562 section 5.7) in canonical text form."""
    return str(uuid7())


def new_version() -> int:
    """Return a new version of an object: a number below 2**60 that grows with time.

    It is the time in units of 1/4096 ms (0.25 us), so that an object that is deleted and created
    again under the same name never repeats a version: versions are entity tags.
    """
    return time.time_ns() * 4096 // 1_000_000


def is_id(reference: str) -> bool:
    """Return whether a reference has the form of an id, which no name has."""
    return _FORM.fullmatch(reference) is not None
