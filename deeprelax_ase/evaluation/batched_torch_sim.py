"""Optimizers of TorchSim's own, in batches, under any model of TorchSim's: what its users run."""

from __future__ import annotations

import numpy as np

from deeprelax_ase.calculators.torch_sim import TorchSimPotential
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.evaluation.relaxation import Advance, Limits, Relax, Relaxed
from deeprelax_ase.graph.torch_builder import batch_tensors


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
