"""Settings of the documentation: ``make docs`` builds it, offline, and takes every warning for an error."""

from __future__ import annotations

import logging
import re
import sys
from importlib.util import find_spec
from pathlib import Path

from sphinx.application import Sphinx

import deeprelax_ase

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "deeprelax_ase"
author = "deeprelax_ase contributors"
copyright = author
version = release = deeprelax_ase.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "crystals",
    "mathml",
    "model_cards",
]
exclude_patterns = ["_build", "gallery"]

html_theme = "furo"
html_title = f"deeprelax_ase {version}"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["outputs.css"]
html_copy_source = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# Google's style; attributes are described in the docstring of their class.
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
add_module_names = False

# `$` and `>>>` are no part of what is copied.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Libraries that autodoc imports print what is logged; training would tell of every epoch.
logging.getLogger("deeprelax_ase").setLevel(logging.WARNING)

# The tutorials: scripts of docs/gallery, run when the pages are built; an error in one ends the build.
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "tutorials",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "write_computation_times": False,
    "show_signature": False,
    "remove_config_comments": True,
    "capture_repr": (),
    "default_thumb_file": str(Path(__file__).parent / "_static" / "flow.svg"),
    "image_scrapers": ("matplotlib", "crystals.scraper"),
    # Without GPAW its tutorial is shown and not run.
    "filename_pattern": r"/plot_" if find_spec("gpaw") else r"/plot_(?!\d_dft)",
}


def link_tutorials(app: Sphinx, page: str, source: list[str]) -> None:
    """A clone has the scripts, the site the pages that are made of them: a link to the former leads to the latter."""
    source[0] = re.sub(r"\]\(gallery/(\w*)(?:\.py)?\)", lambda to: f"](tutorials/{to[1] or 'index'}.rst)", source[0])


def setup(app: Sphinx) -> None:
    """Register it."""
    app.connect("source-read", link_tutorials)
