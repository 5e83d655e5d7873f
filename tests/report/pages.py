"""What tests of reports share."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from ase.io import read, write

#: A name that a page must not take for markup.
EVIL = '<script>alert("x")</script>'


class Tags(HTMLParser):
    """What a page loads, and the text outside of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.text, self.scripts, self._inside = "", 0, ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self._inside = tag
        self.scripts += tag == "script"
        self.loads += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += data


def first(screened: Path, number: int, folder: Path) -> Path:
    """A file of the first crystals."""
    write(folder / "some.extxyz", read(screened / "true.extxyz", index=f":{number}"))
    return folder / "some.extxyz"
