"""``examples/teach_calculator.py``: fewer force calls once the network has learnt a calculator's minima."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("chgnet", reason="needs CHGNet")
pytest.importorskip("lightning", reason="needs Lightning")
pytest.importorskip("crepes", reason="needs crepes")
pytest.importorskip("pyarrow", reason="needs pyarrow")


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "examples"))
    return import_module("teach_calculator")


def test_no_two_crystals_are_alike(example: ModuleType) -> None:
    crystals = example.compounds()
    assert len({tuple(atoms.cell.array.ravel()) for atoms in crystals}) == len(crystals) == 128
    assert {len(atoms) for atoms in crystals} == {2}


@pytest.mark.slow
def test_the_tuned_model_jumps_nearer_and_takes_fewer_force_calls(example: ModuleType, tmp_path: Path) -> None:
    tuned, unseen = example.taught(tmp_path)
    assert len(unseen) == 24
    before, after = (example.force_calls(unseen, model) for model in ("DeepRelax-PBE", tuned))
    assert after.calls < before.calls < example.force_calls(unseen).calls
    assert after.volume_off < before.volume_off
    del sys.modules["teach_calculator"]
