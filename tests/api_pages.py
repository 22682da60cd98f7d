"""The pages of ``docs/reference`` about the API, in the order of their contents."""

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
OVERVIEW: Final = ROOT / "docs" / "reference" / "api.md"
#: One for each resource.
RESOURCES: Final = [
    OVERVIEW.parent / f"{name}.md"
    for name in re.findall(r"^(api/\S+)$", OVERVIEW.read_text(encoding="utf-8"), re.MULTILINE)
]


def as_one() -> str:
    """All of them as one page, whose headings are one step smaller than those of a resource."""
    texts = [page.read_text(encoding="utf-8") for page in RESOURCES]
    smaller = (re.sub("^#", "##", each, flags=re.MULTILINE) for each in texts)
    return "\n".join([OVERVIEW.read_text(encoding="utf-8"), *smaller])
