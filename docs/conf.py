import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "Keyosk"
author = "The Keyosk authors"
project_copyright = "The Keyosk authors"
release = version = installed_version("keyosk")

extensions = ["myst_parser", "sphinx_copybutton", "inline_diagrams", "operations"]
exclude_patterns = ["_build"]

# The anchors that GitHub gives headings too, so that a link works in both places.
myst_heading_anchors = 3
# Every reference must lead somewhere; `make docs` makes a failure of a warning.
nitpicky = True

html_theme = "furo"
html_title = "Keyosk"
html_static_path = ["_static"]
html_css_files = ["site.css"]
# The pages are read beside their sources: nothing is gained by copying those.
html_copy_source = False
html_show_sourcelink = False

# Without them the button would copy what a terminal shows before the command.
copybutton_prompt_text = r"[$#] "
copybutton_prompt_is_regexp = True

# `make docs SPHINX_FORMAT=epub` and `SPHINX_FORMAT=man`.
epub_show_urls = "no"
man_pages = [
    ("reference/commands", "keyosk", "one login for a set of services", [author], 1),
    ("reference/configuration", "keyosk-settings", "settings of Keyosk", [author], 5),
]
