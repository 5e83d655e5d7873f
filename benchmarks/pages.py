"""The pages and pictures of the benchmarks, made anew of what was measured: ``make pages``.

python benchmarks/pages.py

writes those of this folder, the models' cards and what is measured in README.md, its
picture, in that of this folder and in pages of docs; ``benchmarks/paper/page.py`` writes that
of the paper's tables.
"""

from __future__ import annotations

from pathlib import Path

import accuracy_page
import doors_page
import force_calls_report
import front_picture
import geometry_limits_page
import learning_curve_page
import matplotlib
import model_card_page
import never_worse_page
import novelty_page
import other_minima_page
import readme_page
import screening_page
import speed_page
import time_to_minimum_page
from shared import RESULTS, read

from deeprelax_ase.evaluation.benchmark_page import markdown

HERE = Path(__file__).resolve().parent

#: What ``deeprelax bench`` measured, by title.
BENCHES = {
    "bench-M3GNet": "DeepRelax-M3GNet beside what else relaxes to M3GNet's minima",
    "bench-M3GNet-60": "DeepRelax-M3GNet beside ASE's FIRE under M3GNet, on other crystals",
    "bench-Nequix": "DeepRelax-PBE beside FIRE in batches under Nequix-OAM-1, which made most of its labels",
}


def write(folder: Path) -> None:
    """Write all pages into ``folder``."""
    accuracy_page.write_page(RESULTS, folder / "accuracy.md")
    speed_page.write_page(RESULTS, folder / "speed.md")
    screening_page.write_page(RESULTS, folder / "throughput.md")
    never_worse_page.write_page(RESULTS, folder / "never_worse.md")
    other_minima_page.write_page(RESULTS, folder / "other_minima.md")
    geometry_limits_page.write_page(RESULTS, folder / "geometry_limits.md")
    doors_page.write_page(RESULTS, folder / "doors.md")
    learning_curve_page.write_page(RESULTS, folder / "learning.md")
    with matplotlib.rc_context():  # the other pictures' settings are not this one's
        matplotlib.rcdefaults()
        found, times, *dft = read(RESULTS, *(f"force_calls{of}" for of in ("", "-times", "-gpaw", "-gpaw-coarse")))
        time_to_minimum_page.write_page(RESULTS, folder / "time_to_minimum.md")
        matplotlib.rcdefaults()
        report = force_calls_report.report(found, folder / "force_calls.svg", dft, times)
    (folder / "force_calls.md").write_text(report, encoding="utf-8")
    parts = [markdown(read(RESULTS, name), title) for name, title in BENCHES.items()]
    (folder / "bench.md").write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    write(HERE)
    model_card_page.fill_metrics()
    model_card_page.write_cards()
    novelty_page.write_page(RESULTS)
    never_worse_page.fill(HERE.parent / "docs" / "trust.md", RESULTS)
    other_minima_page.fill(HERE.parent / "docs" / "trust.md", RESULTS)
    front_picture.draw()
    readme_page.write_pages()
