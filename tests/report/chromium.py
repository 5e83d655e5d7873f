"""A page opened in Debian's Chromium: what it draws, what it complains of, and what it loads."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import pytest

needs_chromium = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="Debian's chromium is not installed: apt-get install chromium"
)

#: Pictures of the pages are kept there, if it is set: CI does.
ARTEFACTS = "DEEPRELAX_SCREENSHOTS"

_OPTIONS = (
    *("--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND"),
    *("--virtual-time-budget=15000", "--enable-logging=stderr", "--hide-scrollbars"),
)


@dataclass(frozen=True)
class Shown:
    """The answer of a probe, and complaints on the console: also of what the page's policy keeps it from loading."""

    answer: Any
    complaints: list[str]


#: Chromium's windows are 500 px wide at least: a phone's width is that of a frame in one.
_FRAME = """<body style="margin:0"><iframe src="{page}" style="border:0; width:{width}px; height:4000px"></iframe>
<pre id="answer"></pre><script>addEventListener("message", told =>
document.getElementById("answer").textContent = told.data);</script></body>"""


def opened(page: Path, probe: str, folder: Path, *, width: int) -> Shown:
    """Open a copy of ``page`` in a frame ``width`` px wide; ``probe`` is the body of an asynchronous function."""
    content = page.read_text(encoding="utf-8")
    script = (
        '<script>addEventListener("load", () => setTimeout(async () => '
        f'parent.postMessage(JSON.stringify(await (async () => {{ {probe} }})()), "*"), 3000));</script>'
    )
    head, _, tail = content.rpartition("</body>")
    copy = folder / "probed.html"
    copy.write_text(f"{head}{script}</body>{tail}", encoding="utf-8")
    done = _chromium(copy, folder, width, "--dump-dom")
    found = re.search(r'<pre id="answer">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    if place := os.environ.get(ARTEFACTS):
        Path(place).mkdir(parents=True, exist_ok=True)
        picture = Path(place).resolve() / f"{page.stem}-{width}.png"
        _chromium(page, folder, width, f"--screenshot={picture}")
    return Shown(json.loads(unescape(found[1])), complaints)


def _chromium(page: Path, folder: Path, width: int, *what: str) -> subprocess.CompletedProcess[str]:
    frame = folder / "frame.html"
    frame.write_text(_FRAME.format(page=page.as_uri(), width=width), encoding="utf-8")
    command = ["chromium", *_OPTIONS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},4000", *what]
    return subprocess.run([*command, frame.as_uri()], capture_output=True, text=True, timeout=120, check=True)
