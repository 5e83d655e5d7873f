"""The run that ships, on a few pairs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from deeprelax_ase.models.loading import load_model
from deeprelax_ase.training import load_config, train_model
from tests.pairs import make_pairs, write_pairs
from tests.training.runs import records

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "training" / "deeprelax2.yaml"
#: Twelve pairs of them to train on, two to validate on and two to test.
SPLIT = np.array([0] * 12 + [1] * 2 + [2] * 2, dtype=np.uint8)
SMALL = {"network.channels": 8, "network.num_basis": 8, "network.max_neighbors": 14, "training.max_steps": 3}
HERE = {
    "device": "cpu",
    "devices": 1,
    "training.compile": False,
    "training.atoms_per_batch": 60,
    "training.log_every": 1,
}


def write(file: str, seed: int) -> None:
    """Pairs as in the files whose name ``file`` is."""
    rng, pairs = np.random.default_rng(seed), make_pairs(16, seed=seed)
    write_pairs(Path(file), pairs, dft=np.arange(16) % 3 == 0, split=SPLIT)
    with np.load(file) as raw:
        arrays = dict(raw)
    arrays |= {"energy_initial": rng.random(16), "energy_relaxed": np.zeros(16)}
    if "generated" in file:
        arrays = {name: array for name, array in arrays.items() if "m3gnet" not in name}
        arrays["kind"] = np.tile([0, 4, 5, 6, 7, 8, 9, 10], 2).astype(np.uint8)
        if file[-5] >= "d":
            arrays["forces_initial"] = rng.normal(size=pairs.forces.shape).astype(np.float16)
            arrays["stress_initial"] = np.zeros((16, 3, 3), dtype=np.float16)
    np.savez(file, **arrays)


def write_forces(file: str, seed: int) -> None:
    """M3GNet's forces near the minima of three of the pairs of that ``seed``, at ten places each."""
    rng, index = np.random.default_rng(seed), torch.tensor([4, 7, 9] * 10)
    near = make_pairs(16, seed=seed).take(index)
    np.savez(
        file,
        index=index.numpy(),
        frac_initial=near.fractional_relaxed.numpy() + 0.01 * rng.random((len(near.numbers), 3)),
        cell_initial=near.cell_relaxed.numpy(),
        forces=rng.normal(size=(len(near.numbers), 3)),
        virial=np.zeros((len(index), 3, 3)),
    )


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="Muon needs torch 2.9")
def test_the_run_that_ships_trains_a_small_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = load_config(EXAMPLE).data
    for seed, file in enumerate(data.sources):
        write(file, seed)
    for seed, file in enumerate(data.forces):
        write_forces(file, seed)
    train_model(load_config(EXAMPLE, [f"{name}={value}" for name, value in {**SMALL, **HERE}.items()]))
    log = records(tmp_path / "runs/DeepRelax2/member0")
    assert [record["step"] for record in log] == [1, 2, 3]
    assert all(math.isfinite(record["loss"]) for record in log)
    for part in ("force_targets", "forces", "blocks"):
        assert any(record["gradient_norm"][part] > 0 for record in log), part
    model = load_model(tmp_path / "runs/DeepRelax2/DeepRelax2.json")
    assert model.config.levels == ("PBE", "OAM", "M3GNet")
    assert model.card.recycles == 2
    assert model.card.metrics["test"]["coordinates"] > 0
