"""Whether to print colours on a terminal."""

import os


def are_wanted() -> bool:
    """Return whether colours are allowed: ``NO_COLOR`` is unset or empty (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
