from importlib.metadata import version as installed_version

project = "Keyosk"
author = "The Keyosk authors"
project_copyright = "The Keyosk authors"
release = version = installed_version("keyosk")

extensions = ["myst_parser"]
exclude_patterns = ["_build"]

# The anchors that GitHub gives headings too, so that a link works in both places.
myst_heading_anchors = 3
# Every reference must lead somewhere; `make docs` makes a failure of a warning.
nitpicky = True

html_theme = "furo"
html_title = "Keyosk"
# The pages are read beside their sources: nothing is gained by copying those.
html_copy_source = False
html_show_sourcelink = False
