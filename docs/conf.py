"""How the documentation is built: `uv run sphinx-build -W docs docs/_build/html`."""

from importlib.metadata import version as installed_version

project = "probinfer"
author = "The probinfer developers"
copyright = "2026, The probinfer developers"
version = release = installed_version("probinfer")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"show-inheritance": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"probinfer {release}"
html_copy_source = False
html_show_sphinx = False
templates_path = []
html_static_path = []
