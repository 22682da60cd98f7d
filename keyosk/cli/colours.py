"""Whether a terminal is to have colours."""

import os


def are_wanted() -> bool:
    """Return whether nobody said that they want none (https://no-color.org).

    An empty ``NO_COLOR`` says nothing.
    """
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
