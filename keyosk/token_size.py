"""How long a token may be."""

from collections.abc import Sequence
from typing import Final

from keyosk.errors import InvalidScope

#: Characters: servers cut headers at 8 KiB, and a token is not alone in there.
LONGEST: Final = 6_144


def check_size(length: int, scopes: Sequence[str]) -> None:
    """Raise ``InvalidScope``, which names what weighs most, if a token would be too long."""
    if length <= LONGEST:
        return
    weights: dict[str, int] = {}
    for scope in scopes:
        group = f"{scope.partition(':')[0]}:..." if ":" in scope else scope
        weights[group] = weights.get(group, 0) + len(scope) + 1
    heaviest = sorted(weights.items(), key=lambda item: -item[1])[:5]
    shares = ", ".join(f"{group[:100]} {weight} bytes" for group, weight in heaviest)
    raise InvalidScope(
        f"The token would have {length} bytes, and servers cut headers at 8 KiB; {LONGEST} are "
        f"allowed. Ask for fewer scopes or for one audience. Its scopes take: {shares}."
        if shares
        else f"The token would have {length} bytes because of the account's claims; {LONGEST} are "
        "allowed."
    )
