"""What a user would run instead of a prediction: nothing, a rule for volumes, and iterative relaxations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import CalculatorError
from deeprelax_ase.evaluation.batched_fire import ase_optimizer_in_batches, m3gnet_compute

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

#: Tells that another crystal is done.
Advance = Callable[[], object]


@dataclass(frozen=True)
class Relaxed:
    """What became of G crystals.

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
    """When an iterative relaxation ends: at a largest force of ``fmax`` eV/Å, or after so many ``steps``."""

    fmax: float = 0.05
    steps: int = 500


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
        made = _one_by_one(fractional, crystals, advance)
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

    return lambda crystals, advance: _one_by_one(one, crystals, advance)


def matgl_relaxer(limits: Limits) -> Relax:
    """MatGL's own ``Relaxer`` under M3GNet, one crystal after the other.

    Raises:
        CalculatorError: MatGL or its weights are not to be had.
    """
    from deeprelax_ase.calculators.registry import get_calculator

    potential: Any = get_calculator("m3gnet")
    from ase.filters import FrechetCellFilter
    from matgl.ext.ase import Relaxer

    relaxer = Relaxer(potential=potential.potential)

    def one(crystal: Crystal) -> tuple[Crystal, int, bool]:
        atoms = crystal.to_atoms()
        found = relaxer.relax(atoms, fmax=limits.fmax, steps=limits.steps)
        calls = len(found["trajectory"]) - 1  # its last one is there twice
        left = np.linalg.norm(FrechetCellFilter(atoms).get_forces(), axis=1).max()  # it does not say how it ended
        return Crystal.of(atoms), calls, calls <= limits.steps or bool(left < limits.fmax)

    return lambda crystals, advance: _one_by_one(one, crystals, advance)


def torch_sim_model(name: str) -> Any:
    """The TorchSim model that a function makes, by the name ``module:function``.

    Raises:
        CalculatorError: there is no such function, or torch-sim-atomistic is not installed.
    """
    from deeprelax_ase.calculators.registry import imported

    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise CalculatorError(f"There is no {name!r}; give 'module:function'")
    imported("torch_sim", "SimState", "Install torch-sim-atomistic, which needs Python 3.12 or later.")
    make = imported(module, function, "The module must be installed, or its folder on PYTHONPATH.")
    return make()


def torch_sim_fire(model: Any, limits: Limits, *, atoms_per_batch: int = 8000) -> Relax:
    """TorchSim's FIRE in batches; crystals that are done make room for others.

    Args:
        model: a TorchSim ``ModelInterface`` with energies, forces and stresses.
        limits: when it ends.
        atoms_per_batch: so many atoms at once.

    Raises:
        ImportError: torch-sim-atomistic, which needs Python 3.12 or later, is not installed.
    """
    import torch
    import torch_sim

    atom_calls = [0]
    model.register_forward_pre_hook(lambda module, given: atom_calls.append(len(given[0].positions)))

    def state(crystals: list[Crystal]) -> Any:
        counts = torch.tensor([len(c) for c in crystals])
        positions = torch.from_numpy(np.concatenate([c.positions for c in crystals]))
        cells = torch.from_numpy(np.stack([c.cell for c in crystals]))
        numbers = torch.from_numpy(np.concatenate([c.numbers for c in crystals]))
        return torch_sim.SimState(
            positions=positions.to(model.device, model.dtype),
            masses=torch.ones(len(numbers), device=model.device, dtype=model.dtype),
            cell=cells.mT.contiguous().to(model.device, model.dtype),
            pbc=True,
            atomic_numbers=numbers.to(model.device),
            system_idx=torch.repeat_interleave(counts).to(model.device),
        )

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
            state(crystals),
            model,
            optimizer=torch_sim.Optimizer.fire,
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


def _one_by_one(
    one: Callable[[Crystal], tuple[Crystal, int, bool]], crystals: Iterable[Crystal], advance: Advance
) -> Relaxed:
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


def _m3gnet() -> Calculator:
    from deeprelax_ase.calculators.registry import get_calculator

    return get_calculator("m3gnet")


#: Baselines by name; each may raise where what it needs is not installed.
BASELINES: dict[str, Callable[[Limits], Relax]] = {
    "nothing": nothing,
    "volume": volumes,
    "fire": lambda limits: ase_optimizer("FIRE", _m3gnet, limits),
    "lbfgs": lambda limits: ase_optimizer("LBFGS", _m3gnet, limits),
    "batched": lambda limits: ase_optimizer_in_batches("FIRE", m3gnet_compute(), limits),
    "relaxer": matgl_relaxer,
}

#: Those that are measured unless others are asked for.
DEFAULT_BASELINES = ("nothing", "volume", "fire", "batched")

#: What they are called in tables.
TITLES = {
    "nothing": "nothing done",
    "volume": "volume of pymatgen's DLSVolumePredictor",
    "fire": "ASE's FIRE under M3GNet",
    "lbfgs": "ASE's LBFGS under M3GNet",
    "batched": "ASE's FIRE under M3GNet, in batches",
    "relaxer": "MatGL's Relaxer under M3GNet",
}
