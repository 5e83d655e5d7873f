"""Crystals that turn under the mouse in the tutorials: chemiscope's scraper, with pages that need no network.

Chemiscope's own template takes a library from the net, and fetches its data, which browsers refuse where a page is a
file. Here the data stands in the page.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import chemiscope.sphinx
from docutils import nodes
from sphinx.application import Sphinx

_PAGE = """<div class="chemiscope-sphinx"><div class="visualizer-container visualizer-structure-mode">
<div class="visualizer-column"><div id="{name}-meta"></div><div id="{name}-structure" class="visualizer-item"></div>
<div id="{name}-info"></div></div></div></div>
<link rel="stylesheet" href="{static}/chemiscope-sphinx.css"><script src="{static}/chemiscope.min.js"></script>
<script>addEventListener("load", () => Chemiscope.StructureVisualizer.load(
{{meta: "{name}-meta", structure: "{name}-structure", info: "{name}-info"}},
{data}, new Chemiscope.Warnings()));</script>
"""

_of_chemiscope = chemiscope.sphinx.ChemiscopeScraper()


def scraper(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """What chemiscope's scraper makes of the widget that a block ends with; nothing is left beside the scripts."""
    return str(_of_chemiscope(block, block_vars | {"src_file": block_vars["target_file"]}, gallery_conf))


def write(translator: Any, node: nodes.Element) -> None:
    """The crystals of a node, with their data."""
    page = Path(translator.builder.get_outfilename(translator.builder.current_docname))
    file = page.parent / node["filepath"]
    data = json.loads(gzip.decompress(file.read_bytes()))
    static = "../" * translator.builder.current_docname.count("/") + "_static"
    text = json.dumps(data).replace("</", "<\\/")
    translator.body.append(_PAGE.format(name=f"crystals-{file.name[:8]}", static=static, data=text))
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register it, in place of ``chemiscope.sphinx``, whose template goes to the network."""
    app.add_directive("chemiscope", chemiscope.sphinx.ChemiscopeDirective)
    app.add_node(chemiscope.sphinx.chemiscope, html=(write, None))
    static = Path(chemiscope.sphinx.__file__).parent / "static"
    files = [str(static / name) for name in ("chemiscope.min.js", "chemiscope-sphinx.css")]
    app.connect("builder-inited", lambda app: app.config.html_static_path.extend(files))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
