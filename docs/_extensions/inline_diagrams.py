"""Puts the diagrams of ``docs/diagrams`` into the HTML itself, so that they follow the theme.

A file that an ``img`` names sees only the colours that the browser prefers, and none of the page's
own switch between light and dark. Other builders, and GitHub, show the file.
"""

import re
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx


def inline(app: Sphinx, tree: nodes.document, _page: str) -> None:
    """Replace each image of a diagram by the diagram."""
    if app.builder.name not in {"html", "dirhtml", "singlehtml"}:
        return
    for image in list(tree.findall(nodes.image)):
        file = Path(app.srcdir) / image["uri"]
        if file.parent.name != "diagrams" or file.suffix != ".svg":
            continue
        label = escape(image.get("alt", ""), quote=True)
        svg = re.sub(r"<svg ", f'<svg role="img" aria-label="{label}" ', file.read_text(), count=1)
        image.replace_self(nodes.raw("", f'<div class="diagram">{svg}</div>', format="html"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("doctree-resolved", inline)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
