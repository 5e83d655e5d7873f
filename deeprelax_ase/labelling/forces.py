"""M3GNet's forces between predictions and its minima, for a network to learn what forces say about the way left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deeprelax_ase.calculators import BatchedPotential, M3GNetPotential
from deeprelax_ase.calculators.registry import m3gnet_network
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.data import RelaxationPairs, crystals_of, load_pairs
from deeprelax_ase.data.pairs import npz_arrays
from deeprelax_ase.evaluation.pair_predictions import predict_pairs
from deeprelax_ase.geometry.strain import matrix_product, symmetric_exponential, symmetric_logarithm
from deeprelax_ase.graph.crystal_graph import rows_times_matrices
from deeprelax_ase.labelling.relaxer import evaluated
from deeprelax_ase.models.loading import load_model
from deeprelax_ase.models.model import Model
from deeprelax_ase.prediction.devices import device_of
from deeprelax_ase.prediction.parallel import map_in_processes
from deeprelax_ase.progress import track

#: Crystals whose forces are computed together: more do not make a CPU faster.
_TOGETHER = 16


@dataclass(frozen=True)
class PointSettings:
    """Settings of the points between prediction and minimum at which forces are computed.

    Attributes:
        at_prediction: share of the points that are the prediction itself; the others lie part of the way from
            the minimum to it, evenly over the logarithm of that part.
        least: smallest part of the way.
        rattled: share of the points whose atoms are shaken too.
        rattle: Å, range of the standard deviation of that, even over the logarithm.
        largest_force: eV/Å, points with larger ones are left out.
    """

    at_prediction: float = 0.5
    least: float = 0.03
    rattled: float = 0.3
    rattle: tuple[float, float] = (0.001, 0.02)
    largest_force: float = 20.0


def points(pairs: RelaxationPairs, settings: PointSettings, generator: torch.Generator) -> RelaxationPairs:
    """``pairs``, whose unrelaxed side is a prediction, from points between that and the relaxed side."""

    def uniform() -> Tensor:
        return torch.rand(len(pairs), dtype=pairs.cell_initial.dtype, generator=generator)

    part = torch.where(uniform() < settings.at_prediction, torch.ones(len(pairs)), settings.least ** uniform())
    part = part.to(pairs.cell_initial.dtype)
    deformation = matrix_product(torch.linalg.inv(pairs.cell_relaxed), pairs.cell_initial)
    # both cells may differ by a rotation too, which is none of a crystal's
    strain = part[:, None, None] * symmetric_logarithm(matrix_product(deformation, deformation.mT)) / 2
    cell = matrix_product(pairs.cell_relaxed, symmetric_exponential(strain))
    fractional = torch.lerp(pairs.fractional_relaxed, pairs.fractional_initial, part[pairs.batch, None])
    low, high = settings.rattle
    width = torch.where(uniform() < settings.rattled, low * (high / low) ** uniform(), torch.zeros(1).to(part))
    shake = torch.randn(fractional.shape, dtype=fractional.dtype, generator=generator) * width[pairs.batch, None]
    fractional = fractional + rows_times_matrices(shake, torch.linalg.inv(cell)[pairs.batch])
    return replace(pairs, fractional_initial=fractional, cell_initial=cell)


#: Forces (N, 3) in eV/Å and virial (3, 3) in eV of a crystal.
Known = tuple[np.ndarray, np.ndarray]


def known_forces(crystals: list[Crystal], *, potential: BatchedPotential | None = None) -> list[Known | None]:
    """Forces and virial of each crystal; None where the potential cannot tell them, M3GNet on the CPU by default."""
    found = evaluated(crystals, potential or M3GNetPotential(m3gnet_network(), device="cpu"))
    return [
        None if isinstance(one, Exception) else (one.forces, one.stress * crystal.volume)
        for crystal, one in zip(crystals, found, strict=True)
    ]


def forces_in_processes(crystals: list[Crystal], *, workers: int | None) -> list[Known | None]:
    """:func:`known_forces` of all ``crystals``, a few together, in processes; None of one that kills its own."""
    found = map_in_processes(
        _force_finder, crystals, failed=lambda *_: None, workers=workers, chunk=_TOGETHER, device="cpu"
    )
    return list(track(found, "M3GNet", total=len(crystals)))


def _force_finder(device: str) -> Callable[[list[Crystal]], list[Known | None]]:
    return known_forces


def write_forces(
    file: Path, start: RelaxationPairs, index: np.ndarray, found: Sequence[Known | None], *, largest: float
) -> int:
    """Write what :func:`~deeprelax_ase.data.forces.load_pairs_with_forces` reads; returns for how many crystals.

    Args:
        file: npz file to write.
        start: G pairs whose unrelaxed side is where the forces were computed.
        index: (G,) their places in the file of pairs.
        found: (G,) what is known of each.
        largest: eV/Å, crystals with larger forces are left out.

    Raises:
        ValueError: nothing is left.
    """
    known = {k: one for k, one in enumerate(found) if one is not None and np.abs(one[0]).max() <= largest}
    if not known:
        raise ValueError(f"M3GNet gave forces for none of {len(start)} points")
    kept = start.take(torch.tensor(list(known)))
    np.savez(
        file,
        index=index[list(known)].astype(np.int32),
        frac_initial=kept.fractional_initial.numpy(),
        cell_initial=kept.cell_initial.numpy(),
        forces=np.concatenate([forces for forces, _ in known.values()]).astype(np.float32),
        virial=np.stack([virial for _, virial in known.values()]).astype(np.float32),
    )
    return len(known)


def label_forces(
    data: Path,
    out: Path,
    *,
    model: str = "DeepRelax-M3GNet",
    recycles: int = 1,
    device: str = "auto",
    workers: int | None = None,
    seed: int = 0,
) -> tuple[int, int]:
    """Predict the training crystals of a file, choose points, compute M3GNet's forces there, and write them.

    Args:
        data: npz file of relaxation pairs with M3GNet's labels.
        out: see :func:`write_forces`.
        model: its last member predicts.
        recycles: of that prediction.
        device: of it.
        workers: processes that compute forces; 0 for this one alone, one for each core by default.
        seed: of the points.

    Returns:
        For how many points there are forces, and of how many.

    Raises:
        ValueError: the model does not relax to M3GNet's minima, or M3GNet gave no forces.
        CalculatorError: M3GNet cannot be had.
    """
    m3gnet_network()  # whatever is missing is told before the work
    loaded, settings = load_model(model), PointSettings()
    if "M3GNet" not in getattr(loaded.config, "levels", ()):
        raise ValueError(f"{model} does not relax to M3GNet's minima")
    with npz_arrays(data) as arrays:
        places = np.flatnonzero(arrays["m3gnet_ok"])
    pairs = load_pairs(data, labels="m3gnet", dtype=torch.float32)
    chosen = (pairs.split == 0).nonzero().squeeze(1)
    pairs, index = pairs.take(chosen), places[chosen.numpy()]
    alone = Model(replace(loaded.card, level="M3GNet"), loaded.networks[-1:])
    relaxed = predict_pairs(alone, pairs.to(device_of(device)), recycles=recycles)
    fractional, cell = relaxed.fractional.to(pairs.fractional_initial), relaxed.cell.to(pairs.cell_initial)
    start = replace(pairs, fractional_initial=fractional, cell_initial=cell)
    start = points(start, settings, torch.Generator().manual_seed(seed))
    found = forces_in_processes(crystals_of(start, "initial"), workers=workers)
    return write_forces(out, start, index, found, largest=settings.largest_force), len(start)
