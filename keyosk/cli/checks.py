"""What keyosk doctor looked at, and what it found."""

from dataclasses import asdict, dataclass
from typing import Any, Final

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
