"""Baselines: alternatives to a prediction, from nothing over a rule for volumes to iterative relaxations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprelax_ase.calculators.torch_sim import TorchSimPotential
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import CalculatorError
from deeprelax_ase.graph.matgl_import import runs_on_dgl
from deeprelax_ase.graph.torch_builder import batch_tensors
from deeprelax_ase.optimizers.limits import check_fmax

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

    from deeprelax_ase.calculators.batched import BatchedPotential


#: Tells that another crystal is done.
Advance = Callable[[], object]


@dataclass(frozen=True)
class Relaxed:
    """Result of the relaxation of G crystals.

    Attributes:
        crystals: relaxed, in order; as they were where nothing could be made of them.
        calls: of the potential, for each crystal on average; None where there is no potential.
        converged: share that reached the limit of the forces; None likewise.
        failed: how many nothing could be made of.
    """

    crystals: list[Crystal]
    calls: float | None = None
    converged: float | None = None
    failed: int = 0


#: Relaxes crystals; a baseline.
Relax = Callable[[list[Crystal], Advance], Relaxed]


@dataclass(frozen=True)
class Limits:
    """Limits of an iterative relaxation. It ends at a largest force of ``fmax`` eV/Å, or after so many ``steps``.

    Raises:
        ValueError: none would end at ``fmax``.
    """

    fmax: float = 0.05
    steps: int = 500

    def __post_init__(self) -> None:
        check_fmax(self.fmax)


def one_by_one(
    one: Callable[[Crystal], tuple[Crystal, int, bool]], crystals: Iterable[Crystal], advance: Advance
) -> Relaxed:
    """Apply ``one`` to each crystal: it returns the relaxed one, the calls that it took, and whether it converged.

    An exception costs that crystal, and no other.
    """
    made, calls, done, failed = [], 0, 0, 0
    for crystal in crystals:
        try:
            relaxed, taken, converged = one(crystal)
        except Exception:  # whatever calculators and libraries raise: it costs this crystal
            relaxed, taken, converged = crystal, 0, False
            failed += 1
        made.append(relaxed)
        calls += taken
        done += converged
        advance()
    return Relaxed(made, calls / max(len(made), 1), done / max(len(made), 1), failed)


def nothing(limits: Limits) -> Relax:
    """Leaves crystals as they are."""
    return lambda crystals, advance: Relaxed(list(crystals))


def volumes(limits: Limits) -> Relax:
    """Scales cells to the volume that pymatgen's ``DLSVolumePredictor`` takes from the lengths of bonds.

    Raises:
        ImportError: pymatgen is not installed.
    """
    from pymatgen.analysis.structure_prediction.volume_predictor import DLSVolumePredictor

    predictor = DLSVolumePredictor()

    def fractional(crystal: Crystal) -> tuple[Crystal, int, bool]:
        return Crystal.from_structure(predictor.get_predicted_structure(crystal.to_structure())), 0, True

    def relax(crystals: list[Crystal], advance: Advance) -> Relaxed:
        made = one_by_one(fractional, crystals, advance)
        return Relaxed(made.crystals, failed=made.failed)

    return relax


def ase_optimizer(name: str, make_calculator: Callable[[], Calculator], limits: Limits) -> Relax:
    """Relaxes positions and cells with an optimizer of ASE, one crystal after the other.

    Args:
        name: of the optimizer in ``ase.optimize``.
        make_calculator: makes the potential.
        limits: when it ends.
    """
    import ase.optimize
    from ase.filters import FrechetCellFilter

    calculator = make_calculator()

    def one(crystal: Crystal) -> tuple[Crystal, int, bool]:
        atoms = crystal.to_atoms()
        atoms.calc = calculator
        optimizer = getattr(ase.optimize, name)(FrechetCellFilter(atoms), logfile=None)
        done = bool(optimizer.run(fmax=limits.fmax, steps=limits.steps))
        return Crystal.of(atoms), optimizer.nsteps + 1, done

    return lambda crystals, advance: one_by_one(one, crystals, advance)


def in_batches(optimizer: str, potential: BatchedPotential, limits: Limits) -> Relax:
    """Relaxes positions and cells side by side; crystals that are done make room for others.

    Args:
        optimizer: of :func:`~deeprelax_ase.optimizers.relax_in_batches`.
        potential: one of :func:`~deeprelax_ase.calculators.get_batched`.
        limits: when it ends.
    """
    from deeprelax_ase.optimizers.batched.relaxation import relax_in_batches
    from deeprelax_ase.optimizers.batched.start import BatchedStart
    from deeprelax_ase.prediction.allowed_strain import AllowedStrain

    def relax(crystals: list[Crystal], advance: Advance) -> Relaxed:
        made, calls, done, failed = list(crystals), 0, 0, 0
        starts = [BatchedStart(c.numbers, c.positions, c.cell, AllowedStrain()) for c in crystals]
        found = relax_in_batches(starts, potential, optimizer=optimizer, fmax=limits.fmax, steps=limits.steps)
        for place, end in found:
            if end.error is None:
                made[place] = crystals[place].with_geometry(end.positions, end.cell)
            calls, done, failed = calls + end.calls, done + end.converged, failed + (end.error is not None)
            advance()
        size = max(len(made), 1)
        return Relaxed(made, calls / size, done / size, failed)

    return relax


def matgl_relaxer(limits: Limits) -> Relax:
    """MatGL's own ``Relaxer`` under M3GNet, one crystal after the other.

    Raises:
        CalculatorError: MatGL 2 with DGL, or its weights, are not to be had.
    """
    if not runs_on_dgl():
        raise CalculatorError(
            "MatGL's Relaxer relaxes under M3GNet-MP-2021.2.8-PES with MatGL 2 and DGL alone: pip install "
            '"deeprelax-ase[dgl]" on Python 3.11, or leave the baseline out'
        )
    potential: Any = _m3gnet()
    from ase.filters import FrechetCellFilter
    from matgl.ext.ase import Relaxer

    relaxer = Relaxer(potential=potential.potential)

    def one(crystal: Crystal) -> tuple[Crystal, int, bool]:
        atoms = crystal.to_atoms()
        found = relaxer.relax(atoms, fmax=limits.fmax, steps=limits.steps)
        calls = len(found["trajectory"]) - 1  # its last one is there twice
        left = np.linalg.norm(FrechetCellFilter(atoms).get_forces(), axis=1).max()  # it does not say how it ended
        return Crystal.of(atoms), calls, calls <= limits.steps or bool(left < limits.fmax)

    return lambda crystals, advance: one_by_one(one, crystals, advance)


def _m3gnet_in_batches(limits: Limits) -> Relax:
    from deeprelax_ase.calculators.m3gnet_potential import M3GNetPotential
    from deeprelax_ase.calculators.registry import m3gnet_network

    return in_batches("fire", M3GNetPotential(m3gnet_network(), device="cpu"), limits)


def _m3gnet() -> Calculator:
    """The potential that baselines of every table are measured under, and no other of its name.

    Raises:
        CalculatorError: it is not to be had.
    """
    from deeprelax_ase.calculators import M3GNET_POTENTIAL, M3GNET_VARIABLE, get_calculator, potential_name

    calculator = get_calculator("m3gnet")
    if (name := potential_name(calculator)) != M3GNET_POTENTIAL:
        raise CalculatorError(
            f"baselines relax under {M3GNET_POTENTIAL}, and 'm3gnet' is {name} here: set {M3GNET_VARIABLE} to its "
            "folder"
        )
    return calculator


#: Baselines by name; each may raise where what it needs is not installed.
BASELINES: dict[str, Callable[[Limits], Relax]] = {
    "nothing": nothing,
    "volume": volumes,
    "fire": lambda limits: ase_optimizer("FIRE", _m3gnet, limits),
    "lbfgs": lambda limits: ase_optimizer("LBFGS", _m3gnet, limits),
    "batched": _m3gnet_in_batches,
    "relaxer": matgl_relaxer,
}

#: Baselines that are measured unless others are asked for.
DEFAULT_BASELINES = ("nothing", "volume", "fire", "batched")

#: Names of baselines in tables.
TITLES = {
    "nothing": "nothing done",
    "volume": "volume of pymatgen's DLSVolumePredictor",
    "fire": "ASE's FIRE under M3GNet",
    "lbfgs": "ASE's LBFGS under M3GNet",
    "batched": "ASE's FIRE under M3GNet, in batches",
    "relaxer": "MatGL's Relaxer under M3GNet",
}


def torch_sim_optimizer(
    potential: TorchSimPotential, limits: Limits, *, name: str = "fire", atoms_per_batch: int = 8000
) -> Relax:
    """An optimizer of TorchSim's in batches; crystals that are done make room for others. All cells move freely.

    Args:
        potential: with energies, forces and stresses.
        limits: when it ends.
        name: of the optimizer among ``torch_sim.Optimizer``.
        atoms_per_batch: so many atoms at once.
    """
    import torch_sim

    model, atom_calls = potential.model, [0]
    model.register_forward_pre_hook(lambda module, given: atom_calls.append(len(given[0].positions)))

    def relax(crystals: list[Crystal], advance: Advance) -> Relaxed:
        atom_calls.clear()
        batcher = torch_sim.InFlightAutoBatcher(
            model,
            memory_scales_with="n_atoms",
            max_memory_scaler=atoms_per_batch,
            max_iterations=limits.steps // 5,
        )
        converged = torch_sim.generate_force_convergence_fn(force_tol=limits.fmax, include_cell_forces=True)
        final = torch_sim.optimize(
            potential.state(*(tensor.to(potential.device) for tensor in batch_tensors(crystals))),
            model,
            optimizer=torch_sim.Optimizer[name],
            init_kwargs={"cell_filter": torch_sim.CellFilter.frechet},
            convergence_fn=converged,
            max_steps=limits.steps,
            autobatcher=batcher,
        )
        cells = final.row_vector_cell.double().cpu().numpy()
        cuts = np.cumsum([len(c) for c in crystals])[:-1]
        parts = np.split(final.positions.double().cpu().numpy(), cuts)
        made = [c.with_geometry(xyz, cell) for c, xyz, cell in zip(crystals, parts, cells, strict=True)]
        atoms = sum(len(c) for c in crystals)
        return Relaxed(made, sum(atom_calls) / atoms, float(converged(final).double().mean()))

    return relax
