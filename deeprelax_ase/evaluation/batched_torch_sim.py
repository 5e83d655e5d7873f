"""FIRE of TorchSim, in batches, under any model of TorchSim's."""

from __future__ import annotations

from typing import Any

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import CalculatorError
from deeprelax_ase.evaluation.relaxation import Advance, Limits, Relax, Relaxed


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
    import torch_sim

    atom_calls = [0]
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
            _state(crystals, model),
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


def _state(crystals: list[Crystal], model: Any) -> Any:
    """TorchSim's record of the ``crystals``, which has lattice vectors in columns."""
    import torch
    import torch_sim

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
