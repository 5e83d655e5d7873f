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
from pathlib import Path

import torch
from files import write_json
from rich.console import Console

from deeprelax_ase.data import load_pairs
from deeprelax_ase.evaluation.batched_torch_sim import torch_sim_fire
from deeprelax_ase.evaluation.benchmark import bench
from deeprelax_ase.evaluation.relaxation import Limits, Relax

#: Model and labels of the pairs, by potential.
UNDER = {"nequix": ("DeepRelax-PBE", "relaxed"), "m3gnet": ("DeepRelax-M3GNet", "m3gnet")}


def nequix(file: Path | None, limits: Limits, device: str, atoms_per_batch: int) -> dict[str, Relax]:
    """TorchSim's FIRE under Nequix-OAM-1."""
    if file is None:
        raise SystemExit("--potential: the file nequix-oam-1.pt is needed")
    sys.path.append(sys.path.pop(0))  # TorchSim imports PyTables, which the tables.py here would hide
    from nequix_torch_sim import Nequix

    relax = torch_sim_fire(Nequix(file, device), limits, atoms_per_batch=atoms_per_batch)
    return {"FIRE under Nequix-OAM-1 (TorchSim)": relax}


def main() -> None:
    """Measure and add to the report."""
    arguments = _parser().parse_args()
    model, labels = UNDER[arguments.under]
    pairs = load_pairs(arguments.data, labels=labels, dtype=torch.float64).in_split("test")
    usable = (~pairs.dft).nonzero().squeeze(1)
    pairs = pairs.take(usable[torch.linspace(0, len(usable) - 1, min(arguments.number, len(usable))).long()])
    limits = Limits(arguments.fmax, arguments.steps)
    names, others = ["nothing"], {}
    if arguments.under == "m3gnet":
        names.append("fire")
    else:
        others = nequix(arguments.potential, limits, arguments.device, arguments.atoms_per_batch)
    found = bench(pairs, model, baselines=names, others=others, limits=limits, finish=False, device=arguments.device)
    Console().print(found)
    cpu = f"CPU, {torch.get_num_threads()} thread(s)"
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else cpu
    report = json.loads(arguments.json.read_text(encoding="utf-8")) if arguments.json.exists() else {}
    report[f"{arguments.under}, {device}"] = found
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
