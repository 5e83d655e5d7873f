"""The pages of the benchmarks are what their generators make of the measured figures."""

from __future__ import annotations

from pathlib import Path

import pages
import pytest


def test_pages_are_up_to_date(tmp_path: Path) -> None:
    (tmp_path / "tables_reading.md").write_bytes((pages.HERE / "tables_reading.md").read_bytes())
    pages.write(tmp_path)
    for name in ("throughput.md", "tables.md", "bench.md", "force_calls.md"):
        made, kept = ((folder / name).read_text(encoding="utf-8") for folder in (tmp_path, pages.HERE))
        assert made == kept, f"{name} is not what benchmarks/pages.py makes of the results: run `make pages`"
    for name in ("energies.svg", "tables_figure2.svg", "tables_figure5.svg", "force_calls.svg"):
        assert (tmp_path / name).stat().st_size == pytest.approx((pages.HERE / name).stat().st_size, rel=0.05)
