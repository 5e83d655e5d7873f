"""The links of README.md and of all pages: ``make links`` asks for those that lead outside.

python docs/links.py          # asks each once, and names those that fail with the pages that hold them
python docs/links.py --list   # asks nothing

Tests hold that those within the repository lead somewhere in a clone, without a site that was built.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "benchmarks").rglob("*.md"),
        *(ROOT / "deeprelax_ase" / "models" / "weights").glob("*.md"),
    ]
)
#: Answers to a program that say nothing of a reader: who asks is not liked, or asks too often.
GUARDED = (401, 403, 405, 406, 418, 429)

_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", flags=re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(<?([^)>\s]+)>?\)|<(https?://[^>\s]+)>")


def links(page: Path) -> list[str]:
    """Where the links and pictures of a page in Markdown lead, code left out."""
    text = _CODE.sub("", page.read_text(encoding="utf-8"))
    return list(dict.fromkeys(one or other for one, other in _LINK.findall(text)))


def outside(pages: Iterable[Path] = PAGES) -> dict[str, list[Path]]:
    """Addresses, without what stands after ``#``, with the pages that hold them."""
    found: dict[str, list[Path]] = {}
    for page in pages:
        for link in links(page):
            if link.startswith(("http://", "https://")):
                found.setdefault(link.partition("#")[0], []).append(page)
    return found


def dead(pages: Iterable[Path] = PAGES) -> list[str]:
    """Links within the repository to what is not there, or to a heading that a page lacks."""
    found = []
    for page in pages:
        for link in links(page):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, heading = link.partition("#")
            target = page.parent / path if path else page
            if not target.exists() or (heading and heading not in anchors(target)):
                found.append(f"{page.relative_to(ROOT)}: {link}")
    return found


def anchors(page: Path) -> set[str]:
    """Headings of a page, as code hosts and MyST name them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def fault(address: str) -> str | None:
    """Why an address does not answer; None if it does."""
    try:
        with urlopen(Request(address, headers={"User-Agent": "Mozilla/5.0"}), timeout=30):
            return None
    except HTTPError as error:
        return None if error.code in GUARDED else str(error)
    except OSError as error:
        return str(error)


def main() -> None:
    """Ask for all, or list them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the addresses, and ask for none")
    found = outside()
    if parser.parse_args().list:
        print("\n".join(sorted(found)))
        return
    with ThreadPoolExecutor(8) as pool:
        faults = dict(zip(found, pool.map(fault, found), strict=True))
    failed = {address: why for address, why in faults.items() if why}
    for address, why in failed.items():
        print(f"{address}: {why} ({', '.join(str(page.relative_to(ROOT)) for page in found[address])})")
    sys.exit(f"{len(failed)} of {len(found)} addresses fail" if failed else None)


if __name__ == "__main__":
    main()
