"""The list of revoked tokens that Keyosk publishes, as one service knows it."""

import heapq
from collections.abc import Mapping
from typing import Any, Final

_CLAIMS: Final = ("jti", "sub", "key_id", "aud", "kid")
#: Seconds that an entry is kept after it expired, because clocks differ.
_KEPT: Final = 30
_FOREVER: Final = float("inf")

_Claim = tuple[str, Any]  # the name of a claim and its value
_Entry = tuple[_Claim, float, int]  # the claim, the iat before which it applies, when it expires


class RevocationList:
    """The revocations in force. Looking up a token takes the same time however many there are."""

    def __init__(self) -> None:
        self.sequence = 0
        self._issued_before: dict[_Claim, float] = {}  # tokens with an earlier iat are revoked
        self._expires: dict[_Claim, int] = {}
        self._by_expiry: list[tuple[int, _Claim]] = []  # a heap

    def __len__(self) -> int:
        return len(self._issued_before)

    def apply(self, document: object, *, now: float) -> bool:
        """Apply the response of ``/auth/revocations?since=``, sent with this list's ``sequence``.

        Returns whether the response revokes a signing key. Raises ``ValueError`` if it is not a
        list of revocations, and changes nothing then.
        """
        sequence, since, entries = _read(document)
        # With another "since" it has all entries, for example after the database was restored.
        changed = self if since == self.sequence else RevocationList()
        for claim, before, expires in entries:
            changed._add(claim, before, expires)
        self._issued_before = changed._issued_before
        self._expires, self._by_expiry = changed._expires, changed._by_expiry
        self.sequence = sequence
        self.drop_expired(now)
        return any(claim[0] == "kid" for claim, _, _ in entries)

    def revokes(self, kid: str, claims: Mapping[str, Any]) -> bool:
        """Return whether a token, verified before, is revoked."""
        before = self._issued_before
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
                before.get(("aud", name), 0) > issued_at
                for name in ([audience] if isinstance(audience, str) else audience)
            )
        )

    def drop_expired(self, now: float) -> None:
        """Forget entries whose last token has expired."""
        heap = self._by_expiry
        while heap and heap[0][0] < now - _KEPT:
            expires, claim = heapq.heappop(heap)
            if self._expires[claim] == expires:
                del self._expires[claim], self._issued_before[claim]

    def _add(self, claim: _Claim, before: float, expires: int) -> None:
        # An entry never takes back what another one revoked.
        before = max(before, self._issued_before.get(claim, 0))
        expires = max(expires, self._expires.get(claim, 0))
        if self._expires.get(claim) != expires:
            self._expires[claim] = expires
            heapq.heappush(self._by_expiry, (expires, claim))
        self._issued_before[claim] = before


def _read(document: object) -> tuple[int, int, list[_Entry]]:
    if isinstance(document, Mapping):
        sequence, since, entries = (document.get(n) for n in ("sequence", "since", "entries"))
        if type(sequence) is int and type(since) is int and isinstance(entries, list):
            return sequence, since, [_entry(entry) for entry in entries]
    raise ValueError("not a list of revocations")


def _entry(entry: object) -> _Entry:
    if isinstance(entry, Mapping):
        claims = [(name, entry[name]) for name in _CLAIMS if name in entry]
        expires, before = entry.get("expires"), entry.get("issued_before", _FOREVER)
        is_text = len(claims) == 1 and isinstance(claims[0][1], str)
        if is_text and type(expires) is int and (before == _FOREVER or type(before) is int):
            return claims[0], before, expires
    raise ValueError("not a list of revocations")
