"""The list of revoked tokens that Keyosk publishes, as one service knows it."""

import heapq
from collections.abc import Mapping
from typing import Any, Final

_CLAIMS: Final = ("jti", "sub", "key_id", "aud", "kid")
#: Seconds that an entry is kept after it expired, because clocks differ.
_KEPT: Final = 30
_FOREVER: Final = float("inf")

_Name = tuple[str, Any]  # a claim and its value
_Entry = tuple[_Name, float, int]  # its name, the iat before which it applies, its end


class RevocationList:
    """The entries in force. To look up a token takes the same time however many there are."""

    def __init__(self) -> None:
        self.sequence = 0
        self._before: dict[_Name, float] = {}  # tokens with an iat before it are revoked
        self._until: dict[_Name, int] = {}
        self._ends: list[tuple[int, _Name]] = []

    def __len__(self) -> int:
        return len(self._before)

    def apply(self, document: object, *, now: float) -> bool:
        """Apply a response of ``/auth/revocations`` to ``since``, which is ``sequence`` here.

        Returns whether it has an entry for a signing key. Raises ``ValueError`` if it is not such
        a document; then the list stays as it is.
        """
        sequence, since, entries = _read(document)
        # With another since it has all entries, for example after the database was restored.
        changed = self if since == self.sequence else RevocationList()
        for name, before, expires in entries:
            changed._add(name, before, expires)
        self._before, self._until, self._ends = changed._before, changed._until, changed._ends
        self.sequence = sequence
        self.drop_expired(now)
        return any(name[0] == "kid" for name, _, _ in entries)

    def revokes(self, kid: str, claims: Mapping[str, Any]) -> bool:
        """Return whether a token, verified before, is revoked."""
        before = self._before
        if not before:
            return False
        issued_at, audience, act = claims["iat"], claims["aud"], claims.get("act")
        # SECURITY: an exchanged token is in the hands of the account that acts (RFC 8693).
        actor = act.get("sub") if isinstance(act, Mapping) else None
        return (
            before.get(("sub", claims["sub"]), 0) > issued_at
            or (isinstance(actor, str) and before.get(("sub", actor), 0) > issued_at)
            or before.get(("jti", claims.get("jti")), 0) > issued_at
            or before.get(("key_id", claims.get("key_id")), 0) > issued_at
            or before.get(("kid", kid), 0) > issued_at
            or any(
                before.get(("aud", each), 0) > issued_at
                for each in ([audience] if isinstance(audience, str) else audience)
            )
        )

    def drop_expired(self, now: float) -> None:
        """Forget entries whose last token has expired."""
        ends = self._ends
        while ends and ends[0][0] < now - _KEPT:
            expires, name = heapq.heappop(ends)
            if self._until[name] == expires:
                del self._until[name], self._before[name]

    def _add(self, name: _Name, before: float, expires: int) -> None:
        # An entry never takes back what another one revoked.
        before = max(before, self._before.get(name, 0))
        expires = max(expires, self._until.get(name, 0))
        if self._until.get(name) != expires:
            self._until[name] = expires
            heapq.heappush(self._ends, (expires, name))
        self._before[name] = before


def _read(document: object) -> tuple[int, int, list[_Entry]]:
    if isinstance(document, Mapping):
        sequence, since, entries = (document.get(n) for n in ("sequence", "since", "entries"))
        if type(sequence) is int and type(since) is int and isinstance(entries, list):
            return sequence, since, [_entry(each) for each in entries]
    raise ValueError("not a list of revocations")


def _entry(entry: object) -> _Entry:
    if isinstance(entry, Mapping):
        names = [(claim, entry[claim]) for claim in _CLAIMS if claim in entry]
        expires, before = entry.get("expires"), entry.get("issued_before", _FOREVER)
        is_text = len(names) == 1 and isinstance(names[0][1], str)
        if is_text and type(expires) is int and (before == _FOREVER or type(before) is int):
            return names[0], before, expires
    raise ValueError("not a list of revocations")
