"""One route: an address, its resource, and who may use each method."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from keyosk.web import operations
from keyosk.web.access import Access
from keyosk.web.endpoint import Endpoint


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
        """Refuse a method without an access decision or without a declaration (``TypeError``)."""
        methods: set[str] = set(self.resource.methods or ())
        if methods != self.access.keys():
            undecided = ", ".join(sorted(methods ^ self.access.keys()))
            raise TypeError(f"{self.path}: decided and existing methods differ by {undecided}.")
        for method in methods:
            operations.of(self.resource, method)
