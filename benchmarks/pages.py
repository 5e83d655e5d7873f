"""The pages and pictures of the benchmarks, made anew of what was measured: ``make pages``.

python benchmarks/pages.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import energies
import force_calls_report
import matplotlib
import model_card_page
import screening_page
import tables_page

from deeprelax_ase.evaluation.benchmark_page import markdown

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"

#: What ``deeprelax bench`` measured, by title.
BENCHES = {"bench-M3GNet.json": "DeepRelax-M3GNet beside what else relaxes to M3GNet's minima"}


def write(folder: Path) -> None:
    """Write all pages into ``folder``."""
    screening_page.write_page(RESULTS, folder / "throughput.md")
    tables_page.write_page(_read("tables.json"), folder / "tables.md")
    with matplotlib.rc_context():  # the other pictures' settings are not this one's
        matplotlib.rcdefaults()
        report = force_calls_report.report(_read("force_calls.json"), folder / "force_calls.svg")
    (folder / "force_calls.md").write_text(report, encoding="utf-8")
    energies.draw(_read("energies.json"), folder / "energies.svg")
    parts = [markdown(_read(name), title) for name, title in BENCHES.items()]
    (folder / "bench.md").write_text("\n".join(parts), encoding="utf-8")


def _read(name: str) -> dict:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def main() -> None:
    """Write them where they belong."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    write(HERE)
    model_card_page.write_cards()


if __name__ == "__main__":
    main()
