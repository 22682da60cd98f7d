"""The hash chain of the audit log: the hash of a row over itself and the hash before.

A chain that was written by an earlier version must verify for ever, so the form of a hash never
changes.
"""

import hashlib
import json
from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from keyosk.model import AuditRow

#: The hash before the first row.
GENESIS: Final = "0" * 64
#: The canonical JSON of a row, which is hashed.
_ENCODE: Final = json.JSONEncoder(
    ensure_ascii=True,
    separators=(",", ":"),
    sort_keys=True,
    # SECURITY: for bytes that somebody stored in place of text; no row of ours has this JSON.
    default=lambda value: {"not text": repr(value)},
).encode
#: Returns a hash for the previous hash, and the row's place, id, target and ``after`` as JSON.
HashOf = Callable[[str, int, str, str, str], bytes]


def row_hash(row: AuditRow, previous: str, sequence: int | None = None) -> str:
    """Return the SHA-256 of a row with its place and the hash before it, in hexadecimal.

    ``sequence``: its place, if the row does not have it yet.
    """
    content = [
        previous,
        row.sequence if sequence is None else sequence,
        row.id,
        row.time,
        row.actor,
        row.actor_name,
        row.credential,
        row.address,
        row.request_id,
        row.action,
        row.target,
        row.before,
        row.after,
        row.outcome,
    ]
    # Only if it is set, so that older rows keep their hashes.
    if row.via is not None:
        content.append(row.via)
    return hashlib.sha256(_ENCODE(content).encode()).hexdigest()


def hashing(like: AuditRow) -> HashOf:
    """Return a faster ``row_hash`` for rows that differ only in a few members.

    It takes half the time, because only these members are encoded for each row.
    """
    same = (like.actor, like.actor_name, like.credential, like.address, like.request_id)
    head = _ENCODE([like.time, *same, like.action])[1:-1]
    tail = _ENCODE([like.outcome, *([] if like.via is None else [like.via])])[1:-1]

    def hash_of(*differing: Any) -> bytes:
        previous, sequence, row_id, target, after = differing
        if not after.isascii() or "\x7f" in after:  # else it is written alike
            after = _ENCODE(json.loads(after))
        target = encode_basestring_ascii(target)
        content = f'["{previous}",{sequence},"{row_id}",{head},{target},null,{after},{tail}]'
        return hashlib.sha256(content.encode()).digest()

    return hash_of
