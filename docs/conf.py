"""How the documentation is built: `uv run sphinx-build -W docs docs/_build/html`."""

import re
from importlib.metadata import version as installed_version

project = "probinfer"
author = "The probinfer developers"
copyright = "2026, The probinfer developers"
version = release = installed_version("probinfer")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

default_role = "code"  # `x` in a docstring is code
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"probinfer {release}"
html_copy_source = False
html_show_sphinx = False

# nobody calls their constructors
MADE_BY_US = {
    "Draws",
    "Explanation",
    "Outcome",
    "Posterior",
    "Prediction",
    "Report",
    "Score",
    "Scores",
    "Trial",
    "Trials",
    "Verdict",
}

SPECIAL = re.compile(r"([*|]|(?<=\w)_(?!\w))")  # emphasis, substitutions, references: our docstrings use none of them
COLUMN = re.compile(r"^( *)([\w./()\[\], *=-]+?) {2,}(\S.*)$")


def plain_text_to_rst(app, what, name, obj, options, lines):
    """Make our docstrings reStructuredText: they are plain text with `code`, sections, and names in aligned columns."""
    text = [line for paragraph in paragraphs(lines) for line in [*columns(paragraph), ""]]
    lines[:] = ["", *text] if what == "property" else text  # in a property's first line napoleon reads "a: b" as a type


def paragraphs(lines):
    """The lines between blank lines."""
    kept = []
    for line in [*lines, ""]:
        if line.strip():
            kept.append(line)
        elif kept:
            yield kept
            kept = []


def columns(paragraph):
    """A paragraph of `name   description` lines as a definition list; any other with its special signs escaped."""
    if paragraph[0].lstrip().startswith(">>>"):
        return paragraph
    first = COLUMN.match(paragraph[0])
    if not first:
        return [escape(line) for line in paragraph]
    indent, rows = first[1], []
    for line in paragraph:
        row = COLUMN.match(line)
        if row and row[1] == indent:
            rows += [f"{indent}{escape(row[2])}", f"{indent}    {escape(row[3])}"]
        else:
            rows.append(f"{indent}    {escape(line.strip())}")
    return rows


def escape(line):
    """Escape what reStructuredText would read as markup, outside `code`."""
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(part if part.startswith("`") else SPECIAL.sub(r"\\\1", part) for part in parts)


def hide_constructor(app, what, name, obj, options, signature, return_annotation):
    """No signature for the classes that only probinfer makes."""
    return ("", None) if what == "class" and name.rpartition(".")[2] in MADE_BY_US else None


def setup(app):
    """Connect the two before napoleon reads the docstrings."""
    app.connect("autodoc-process-docstring", plain_text_to_rst, priority=100)
    app.connect("autodoc-process-signature", hide_constructor)
