"""What was looked at for ``keyosk doctor``, and what was found; of values, without a database."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from keyosk.errors import counted

OK: Final = "ok"
#: It works, and somebody should know.
WARNING: Final = "warning"
WRONG: Final = "wrong"
#: It could not be looked at, and why.
NOT_CHECKED: Final = "not checked"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        part: What it is.
        status: ``ok``, ``warning``, ``wrong`` or ``not checked``.
        found: What was found.
        cure: What to do, if anything.
    """

    part: str
    status: str
    found: str
    cure: str = ""

    @property
    def shape(self) -> dict[str, Any]:
        """The same for programs."""
        return asdict(self)


def of_keys(found: Iterable[Mapping[str, Any]]) -> Iterator[Check]:
    """Look at the signing keys, in the shape of the API, and at who has not fetched the next."""
    keys = list(found)
    active = [key for key in keys if key.get("state") == "active"]
    if not active:
        yield Check("keys", WRONG, "no key signs", "Run keyosk signing-key rotate --now")
    else:
        kid, algorithm = active[0].get("kid"), active[0].get("algorithm")
        yield Check("keys", OK, f"{kid} signs ({algorithm}); {counted(len(keys), 'key')} in all")
    following = [key for key in keys if key.get("state") == "next"]
    if not following:
        yield Check("next key", OK, "none is published yet")
    for key in following:
        unseen = ", ".join(map(str, key.get("not_seen_by") or ()))
        if not unseen:
            yield Check("next key", OK, f"every known service has fetched {key.get('kid')}")
        else:
            yield Check(
                "next key",
                WARNING,
                f"not fetched yet by {unseen}; it signs from {key.get('active_from')}",
                "See that these services fetch the key set again: they would refuse new tokens. "
                "keyosk signing-key rotate --when-seen waits for them.",
            )
