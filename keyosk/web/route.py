"""One route: an address, its resource, and who may use each method."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from keyosk.web import operations
from keyosk.web.access import Access
from keyosk.web.endpoint import Endpoint

_MAKING: Final = ("POST", "PUT", "PATCH")


@dataclass(frozen=True, slots=True)
class Route:
    """One address.

    ``oauth``: its errors are those of RFC 6749 section 5.2. ``streams``: bodies of any size pass
    through it, piece by piece, and it takes its time. ``instant``: without a login it asks nothing
    that could hang, such as the database.
    """

    path: str
    resource: type[Endpoint]
    access: Mapping[str, Access] = field(default_factory=dict)
    oauth: bool = False
    streams: bool = False
    instant: bool = False

    def __post_init__(self) -> None:
        """Refuse what is not decided or not declared, or forgets a proof (``TypeError``)."""
        methods: set[str] = set(self.resource.methods or ())
        if methods != self.access.keys():
            undecided = ", ".join(sorted(methods ^ self.access.keys()))
            raise TypeError(f"{self.path}: decided and existing methods differ by {undecided}.")
        for method in methods:
            operations.of(self.resource, method)
            decision = self.access[method]
            if method in _MAKING and decision.itself and not decision.proof:
                raise TypeError(
                    f"{method} {self.path} lets a token alone make or change what is its account's "
                    "own: state a proof (access.itself_proven_or)."
                )
