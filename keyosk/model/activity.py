"""What was done per minute, and which nodes there are."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One running Keyosk on the database.

    Attributes:
        name: Its machine and where it listens there.
        seen_at: When it last wrote that it runs.
    """

    name: str
    version: str
    started_at: int
    seen_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityCount:
    """What was done in some seconds from ``time`` on; refusals by reason, those that there were."""

    time: int
    tokens_issued: int
    tokens_refused: Mapping[str, int]
    logins_refused: Mapping[str, int]
