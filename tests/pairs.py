"""Synthetic relaxation pairs: perturbed crystals of the caesium chloride type that shrink as they relax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deeprelax_ase.data import RelaxationPairs


def make_pairs(size: int = 12, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> RelaxationPairs:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    counts = 2 * (1 + torch.arange(size) % 2)  # 2 and 4 atoms
    doubled = counts == 4
    lengths = torch.stack([torch.where(doubled, 2.0, 1.0), torch.ones(size), torch.ones(size)], dim=1)
    cell = torch.diag_embed(3.6 * lengths.double()) + 0.1 * normal(size, 3, 3)
    sites = {2: [[0.0, 0, 0], [0.5, 0.5, 0.5]], 4: [[0.0, 0, 0], [0.25, 0.5, 0.5], [0.5, 0, 0], [0.75, 0.5, 0.5]]}
    fractional = torch.cat([torch.tensor(sites[n], dtype=torch.float64) for n in counts.tolist()])
    batch = torch.repeat_interleave(torch.arange(size), counts)
    shift = 0.02 * normal(len(batch), 3)
    shift = shift - (torch.zeros(size, 3).double().index_add(0, batch, shift) / counts[:, None])[batch]
    return RelaxationPairs.without_forces(
        numbers=torch.tensor([55, 17] * (len(batch) // 2)),
        counts=counts,
        fractional_initial=(fractional + shift).to(dtype),
        fractional_relaxed=fractional.to(dtype),
        cell_initial=cell.to(dtype),
        cell_relaxed=(cell * 0.95).to(dtype),
        dft=torch.zeros(size, dtype=torch.bool),
        level=torch.zeros(size, dtype=torch.int64),
        split=torch.zeros(size, dtype=torch.int64),
        energy_relaxed=-3 - 0.01 * torch.arange(size, dtype=dtype),
        kind=torch.full((size,), -1),
        fixed_cell=torch.zeros(size, dtype=torch.bool),
    )


@pytest.fixture(scope="session")
def pairs_of() -> Callable[..., RelaxationPairs]:
    """``pairs_of(12, dtype=torch.float32)``: a dozen pairs."""
    return make_pairs


def inform(pairs: RelaxationPairs, *, every: int = 2, seed: int = 1) -> RelaxationPairs:
    generator = torch.Generator().manual_seed(seed)
    has_forces = torch.arange(len(pairs)) % every == 0
    forces = torch.randn(pairs.forces.shape, generator=generator, dtype=pairs.forces.dtype)
    virial = torch.randn(pairs.virial.shape, generator=generator, dtype=pairs.virial.dtype)
    return replace(
        pairs,
        forces=forces * has_forces[pairs.batch, None],
        virial=(virial + virial.mT) * has_forces[:, None, None],
        has_forces=has_forces,
    )


@pytest.fixture(scope="session")
def has_forces() -> Callable[..., RelaxationPairs]:
    """``informed(pairs, every=2)``: the pairs, with random forces and virials of the first, the third, ..."""
    return inform


def write_pairs(file: Path, pairs: RelaxationPairs, *, dft: np.ndarray, split: np.ndarray) -> Path:
    """``pairs`` as an npz file whose M3GNet minima are the relaxed crystals, known of all but the first three."""
    relaxed = {"frac": pairs.fractional_relaxed.numpy(), "cell": pairs.cell_relaxed.numpy()}
    np.savez(
        file,
        numbers=pairs.numbers.numpy(),
        offsets=np.concatenate([[0], pairs.counts.cumsum(0).numpy()]),
        frac_initial=pairs.fractional_initial.numpy(),
        cell_initial=pairs.cell_initial.numpy(),
        **{f"{name}_{labels}": array for name, array in relaxed.items() for labels in ("relaxed", "m3gnet")},
        m3gnet_ok=np.arange(len(pairs)) > 2,
        dft=dft,
        split=split,
    )
    return file


@pytest.fixture(scope="session")
def pairs_file() -> Callable[..., Path]:
    """``pairs_file(file, pairs, dft=..., split=...)``."""
    return write_pairs


@pytest.fixture
def splits_file(tmp_path: Path) -> Path:
    """Sixteen pairs, every other one labelled by DFT: twelve to train on, two each for validation and test."""
    pairs = make_pairs(16, dtype=torch.float32)
    split = np.array([0] * 12 + [1] * 2 + [2] * 2, dtype=np.uint8)
    return write_pairs(tmp_path / "pairs.npz", pairs, dft=np.arange(16) % 2 == 0, split=split)


#: Networks that learn in a second.
TINY: dict[str, dict[str, Any]] = {
    "DeepRelaxE3": {"channels": 8, "num_blocks": 1, "layers_per_block": 1, "num_basis": 8, "max_neighbors": 14},
    "DeepRelax": {"channels": 16, "num_layers": 2, "num_basis": 12, "encoding_channels": 8},
}


@pytest.fixture
def values_of(splits_file: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """``values_of("DeepRelax", **{"training.max_steps": 5})``: a run of four steps, for ``run_config`` and YAML."""

    def values(architecture: str = "DeepRelaxE3", **changes: Any) -> dict[str, Any]:
        made: dict[str, Any] = {
            "name": "tiny",
            "out": str(tmp_path / "run"),
            "device": "cpu",
            "data": {"sources": [str(splits_file)]},
            "network": {"architecture": architecture, **TINY[architecture]},
            "training": {"max_steps": 4, "atoms_per_batch": 15, "log_every": 2, "learning_rate": 5e-3},
        }
        for name, value in changes.items():
            *sections, last = name.split(".")
            place = made
            for section in sections:
                place = place.setdefault(section, {})
            place[last] = value
        return made

    return values
