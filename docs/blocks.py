"""Run the code of the pages, and hold what it prints against what stands below it.

    python docs/blocks.py                          # all pages
    python docs/blocks.py docs/trust.md --record   # a page, whose outputs are written anew

Python blocks of a page share their names, shell blocks a folder in which ``examples`` lies. A ``text`` block is what
the block above it prints. Numbers may differ in their last digits, times altogether.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stdout
from io import StringIO
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sybil import Document, Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.myst import CodeBlockParser, SkipParser

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(Path(__file__).parent.glob("*.md"))

#: Relative, and in units of the last digit: by how much numbers may differ from one machine to another. A page may set
#: another ``tolerance`` in an invisible block.
TOLERANCE, LAST_DIGIT = 0.02, 2.001

_NUMBER = re.compile(r"(?:(?<!\S)[-+])?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?")
_TIME = re.compile(r"[\d.,e+-]+(?= ?s\b|/s\b| crystals/s)")
_OUTPUT = "_output"


def parse(page: Path) -> Document:
    """The blocks of a page."""
    python = PythonEvaluator()
    parsers = [
        CodeBlockParser("python", lambda example: _keep(example, _printed(python, example))),
        CodeBlockParser("sh", lambda example: _keep(example, _run(str(example.parsed)))),
        CodeBlockParser("text", _compare),
        SkipParser(),
    ]
    return Sybil(parsers=parsers, path=str(ROOT)).parse(page)  # type: ignore[arg-type]


def run(page: Path, folder: Path, *, names: dict[str, Any] | None = None, record: bool = False) -> None:
    """Run the blocks of a page in ``folder``, in order.

    Args:
        page: Markdown.
        folder: empty; where the blocks run.
        names: that Python blocks know from the start.
        record: write outputs into the page, and compare nothing.

    Raises:
        AssertionError: a block prints something else than the page says, or a command fails.
    """
    (folder / "examples").symlink_to(ROOT / "examples")
    document = parse(page)
    document.namespace.update({"__name__": "__main__", **(names or {})})
    outputs = {}
    with chdir(folder):
        for example in document.examples():
            if record and _language(example) == "text":
                outputs[example.start, example.end] = document.namespace.get(_OUTPUT, "")
            else:
                example.evaluate()
    if record:
        page.write_text(_with_outputs(document.text, outputs), encoding="utf-8")


def differences(expected: str, printed: str, tolerance: float = TOLERANCE) -> Iterator[str]:
    """Lines that are not alike, as ``expected | printed``."""
    lines = ([line.split() for line in text.strip().splitlines() if line.strip()] for text in (expected, printed))
    for one, other in zip_longest(*lines, fillvalue=[]):
        if not _alike(" ".join(one), " ".join(other), tolerance):
            yield f"{' '.join(one)} | {' '.join(other)}"


def _alike(expected: str, printed: str, tolerance: float) -> bool:
    expected, printed = _TIME.sub("time", expected), _TIME.sub("time", printed)
    if _NUMBER.sub("#", expected) != _NUMBER.sub("#", printed):
        return False
    pairs = zip(_NUMBER.findall(expected), _NUMBER.findall(printed), strict=True)
    return all(_near(one, other, tolerance) for one, other in pairs)


def _near(expected: str, printed: str, tolerance: float) -> bool:
    decimals = len(expected.partition("e")[0].partition(".")[2])
    one, other = (float(text.replace(",", "")) for text in (expected, printed))
    return abs(one - other) <= max(tolerance * abs(one), LAST_DIGIT * 10.0**-decimals)


def _printed(evaluate: Callable[[Example], None], example: Example) -> str:
    """What a Python block prints."""
    with redirect_stdout(StringIO()) as output:
        evaluate(example)
    return output.getvalue()


def _run(commands: str) -> str:
    """What shell commands print; the scripts of this environment come first, and all is as wide as a page.

    The exit code of `deeprelax` is 1 where a crystal is uncertain, which what it prints tells too.
    """
    paths = {"PATH": Path(sys.executable).parent, "PYTHONPATH": ROOT}
    joined = {name: f"{path}{os.pathsep}{os.environ.get(name, '')}" for name, path in paths.items()}
    environment = {**os.environ, **joined, "COLUMNS": "100", "TERM": "dumb", "OMP_NUM_THREADS": "1"}
    command = ["bash", "-euo", "pipefail", "-c", commands]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
    if done.returncode and not (done.returncode == 1 and " uncertain" in done.stdout):
        raise AssertionError(f"exit code {done.returncode} of\n{commands}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def _keep(example: Example, output: str) -> None:
    example.namespace[_OUTPUT] = output


def _compare(example: Example) -> None:
    names = example.namespace
    if found := list(differences(str(example.parsed), names.get(_OUTPUT, ""), names.get("tolerance", TOLERANCE))):
        raise AssertionError(f"{example.path}, line {example.line}, page | printed:\n" + "\n".join(found))


def _language(example: Example) -> str:
    return str(example.region.lexemes.get("arguments", ""))


def _with_outputs(text: str, outputs: dict[tuple[int, int], str]) -> str:
    for (start, end), output in sorted(outputs.items(), reverse=True):
        lines = "\n".join(line.rstrip() for line in output.strip("\n").splitlines())
        text = f"{text[:start]}```text\n{lines}\n```{text[end:]}"
    return text


def main() -> None:
    """Run pages, each in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES)
    parser.add_argument("--record", action="store_true", help="write the outputs into the pages")
    given = parser.parse_args()
    for page in given.pages:
        with tempfile.TemporaryDirectory() as folder:
            run(page.resolve(), Path(folder), record=given.record)
        print(f"{page.name}: {'recorded' if given.record else 'as it says'}")


if __name__ == "__main__":
    main()
