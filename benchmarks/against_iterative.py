"""One-shot prediction against iterative relaxation of the same crystals, in one run on one device: speed and accuracy.

python benchmarks/against_iterative.py pairs_universal.npz --under nequix --potential nequix-oam-1.pt --number 1000
python benchmarks/against_iterative.py pairs_universal.npz --under m3gnet --number 60

``nequix`` is FIRE of TorchSim, in batches, under Nequix-OAM-1, of whose minima DeepRelax-PBE has learnt; it needs
torch-sim-atomistic (Python 3.12 or later) and nequix. ``m3gnet`` is ASE's FIRE under M3GNet, crystal by crystal. Errors
are those from the relaxed crystals of the pairs: minima of the same potential, that another FIRE has found.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment
from files import write_json
from rich.console import Console
from rich.progress import track

from deeprelax_ase import Crystal, Predictor
from deeprelax_ase.data import Pairs, crystals_of, load_pairs
from deeprelax_ase.training.evaluate import errors

#: Model, labels of the pairs, and the name in the report, by potential.
UNDER = {
    "nequix": ("DeepRelax-PBE", "relaxed", "FIRE under Nequix-OAM-1 (TorchSim)"),
    "m3gnet": ("DeepRelax-M3GNet", "m3gnet", "FIRE under M3GNet (ASE), one by one"),
}

#: Passes and members of the predictions that are compared; None for those of the model's card.
SHAPES = ((None, None), (1, 1))

Relax = Callable[[list[Crystal]], tuple[list[Crystal], dict[str, float]]]


def torch_sim_fire(potential: Path, device: str, *, fmax: float, steps: int, atoms_per_batch: int) -> Relax:
    """Relaxes crystals in batches; those that are done make room for others."""
    sys.path.append(sys.path.pop(0))  # TorchSim imports PyTables, which the tables.py here would hide
    import torch_sim
    from nequix_torch_sim import Nequix

    model = Nequix(potential, device)

    def relax(crystals: list[Crystal]) -> tuple[list[Crystal], dict[str, float]]:
        model.atom_steps = 0
        batcher = torch_sim.InFlightAutoBatcher(
            model, memory_scales_with="n_atoms", max_memory_scaler=atoms_per_batch, max_iterations=steps // 5
        )
        converged = torch_sim.generate_force_convergence_fn(force_tol=fmax, include_cell_forces=True)
        final = torch_sim.optimize(
            model.state(crystals),
            model,
            optimizer=torch_sim.Optimizer.fire,
            init_kwargs={"cell_filter": torch_sim.CellFilter.frechet},
            convergence_fn=converged,
            max_steps=steps,
            autobatcher=batcher,
        )
        cells = final.row_vector_cell.cpu().numpy()
        parts = np.split(final.positions.cpu().numpy(), np.cumsum([len(c) for c in crystals])[:-1])
        made = [c.with_geometry(xyz, cell) for c, xyz, cell in zip(crystals, parts, cells, strict=True)]
        atoms = sum(len(c) for c in crystals)
        return made, {"converged": float(converged(final).double().mean()), "steps": model.atom_steps / atoms}

    return relax


def ase_fire(*, fmax: float, steps: int) -> Relax:
    """Relaxes crystals one by one under M3GNet."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    from deeprelax_ase.calculators import get_calculator

    calculator = get_calculator("m3gnet")

    def relax(crystals: list[Crystal]) -> tuple[list[Crystal], dict[str, float]]:
        made, done, calls = [], 0, 0
        for crystal in track(crystals, "FIRE under M3GNet", transient=True):
            atoms = crystal.to_atoms()
            atoms.calc = calculator
            optimizer = FIRE(FrechetCellFilter(atoms), logfile=None)
            done += optimizer.run(fmax=fmax, steps=steps)
            calls += optimizer.nsteps + 1
            made.append(Crystal.of(atoms))
        return made, {"converged": float(done) / len(crystals), "steps": calls / len(crystals)}

    return relax


def predictions(model: str, device: str, passes: int | None, members: int | None) -> tuple[str, Relax]:
    """Their name, and what makes them."""
    predictor = Predictor(model, device=device, passes=passes, members=members, graph_backend="torch")

    def relax(crystals: list[Crystal]) -> tuple[list[Crystal], dict[str, float]]:
        made = list(predictor.predict_many(crystals, bonds=False))
        return [getattr(p, "relaxed", c) for p, c in zip(made, crystals, strict=True)], {}

    return f"{model}, {predictor.passes} x {len(predictor.model.networks)}", relax


def row(pairs: Pairs, crystals: list[Crystal], relax: Relax, warm_up: int) -> dict[str, Any]:
    """Crystals a second and mean errors; the first ``warm_up`` crystals are relaxed beforehand, untimed."""
    if warm_up:
        relax(crystals[:warm_up])
    start = time.perf_counter()
    relaxed, more = relax(crystals)
    seconds = time.perf_counter() - start
    return {"crystals_per_second": len(crystals) / seconds, **more, **mean_errors(pairs, relaxed)}


def mean_errors(pairs: Pairs, relaxed: list[Crystal]) -> dict[str, float]:
    """Of the coordinates in Å, mean and median, and of the volume, relative."""
    scaled = torch.from_numpy(np.concatenate([c.scaled_positions for c in relaxed]))
    found = errors(pairs, scaled, torch.from_numpy(np.stack([c.cell for c in relaxed])))
    coordinates, volume = found["coordinates"].double(), found["relative_volume"].double()
    return {
        "coordinates": float(coordinates.mean()),
        "coordinates_median": float(coordinates.median()),
        "relative_volume": float(volume.mean()),
    }


def main() -> None:
    """Measure and add to the report."""
    arguments = _parser().parse_args()
    model, labels, name = UNDER[arguments.under]
    pairs = load_pairs(arguments.data, labels=labels, dtype=torch.float64).in_split("test")
    usable = (~pairs.dft).nonzero().squeeze(1)
    pairs = pairs.take(usable[torch.linspace(0, len(usable) - 1, min(arguments.number, len(usable))).long()])
    crystals = crystals_of(pairs, "initial")
    settings = {"fmax": arguments.fmax, "steps": arguments.steps}
    if arguments.under == "nequix":
        if arguments.potential is None:
            raise SystemExit("--potential: the file nequix-oam-1.pt is needed")
        iterative = torch_sim_fire(
            arguments.potential, arguments.device, atoms_per_batch=arguments.atoms_per_batch, **settings
        )
    else:
        iterative = ase_fire(**settings)
    rows = {"unrelaxed": mean_errors(pairs, crystals)}
    for passes, members in SHAPES:
        label, relax = predictions(model, arguments.device, passes, members)
        rows[label] = row(pairs, crystals, relax, len(crystals))
    rows[name] = row(pairs, crystals, iterative, min(4, len(crystals)))
    found = {**settings, "crystals": len(crystals), "atoms": int(pairs.counts.sum()), "rows": rows}
    Console().print(found)
    cpu = f"CPU, {torch.get_num_threads()} thread(s)"
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else cpu
    report = json.loads(arguments.json.read_text(encoding="utf-8")) if arguments.json.exists() else {}
    report[f"{arguments.under}, {device}"] = {"environment": environment(), **found}
    write_json(arguments.json, report)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="npz file of relaxation pairs")
    parser.add_argument("--under", choices=sorted(UNDER), required=True, help="potential of the iterative relaxation")
    parser.add_argument("--potential", type=Path, help="nequix-oam-1.pt")
    parser.add_argument("--number", type=int, default=1000, help="of test crystals (default %(default)s)")
    parser.add_argument("--fmax", type=float, default=0.05, help="eV/Å (default %(default)s)")
    parser.add_argument("--steps", type=int, default=500, help="at most (default %(default)s)")
    parser.add_argument("--atoms-per-batch", type=int, default=8000, help="of TorchSim (default %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/against_iterative.json"))
    return parser


if __name__ == "__main__":
    main()
