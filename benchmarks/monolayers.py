"""Relaxation pairs of two-dimensional crystals, the labels M3GNet's: other elements in monolayers of real compounds.

python benchmarks/monolayers.py --out benchmarks/data/monolayers.npz --cache monolayers_cache

Where the potential lies says --calculator (``m3gnet:FOLDER``) or the environment variable DEEPRELAX_M3GNET. What is
done stays in --cache: the same command goes on from there, and ends with the same file. It takes one core half an hour.

Atoms, a, b and their angle relax; c, at right angles to both, stays. A pair is kept where the relaxation converged and
the monolayer is still one: see monolayer_checks.py. The split is random, 6:2:2 as that of the paper's C2DB, but pairs
that end in the same crystal are on one side of it.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from monolayer_checks import decision, displacements, is_too_far, overlaps
from monolayer_prototypes import choices, read_prototypes, unrelaxed
from monolayer_relaxing import BatchedM3GNet, Relaxed, relax_in_plane
from rich.progress import Progress
from scipy.linalg import polar

from deeprelax_ase.calculators import get_calculator
from deeprelax_ase.data import LEVELS

#: Candidates that are relaxed, and stored in the cache, one after the other.
CHUNK = 480

#: Shares of training, validation and test.
SHARES = (0.6, 0.2, 0.2)

_PER_ATOM = ("numbers", "frac_initial", "frac_relaxed")
_log = logging.getLogger("monolayers")


def chunk_of_pairs(
    candidates: Sequence[tuple[int, Atoms]], compute: BatchedM3GNet, progress: Progress
) -> dict[str, np.ndarray]:
    """The pairs of those candidates (prototype, monolayer) that are kept, and ``reasons``, one for each candidate."""
    monolayers = [atoms for _, atoms in candidates]
    runs: list[Relaxed | None] = [None] * len(monolayers)
    ends = relax_in_plane(monolayers, compute, hopeless=lambda k, atoms: is_too_far(monolayers[k], atoms) != "")
    for index, run in progress.track(ends, total=len(monolayers), description="relaxing"):
        runs[index] = run
    done = [run for run in runs if run is not None]
    reasons = [decision(before, run) for before, run in zip(monolayers, done, strict=True)]
    kept = [one for one, reason in zip(zip(candidates, done, strict=True), reasons, strict=True) if not reason]
    return {**_flat([(k, before, run) for (k, before), run in kept]), "reasons": np.array(reasons, dtype="U16")}


def _flat(pairs: Sequence[tuple[int, Atoms, Relaxed]]) -> dict[str, np.ndarray]:
    befores, runs = [before for _, before, _ in pairs], [run for *_, run in pairs]
    fractional = [before.get_scaled_positions(wrap=False) for before in befores]
    changed = [change + displacements(*ends) for change, ends in zip(fractional, _ends(befores, runs), strict=True)]
    energies = np.array([run.energies for run in runs]).reshape(-1, 2) / _counts(befores)[:, None]
    return {
        "numbers": np.concatenate([[], *(before.numbers for before in befores)]).astype(np.uint8),
        "counts": _counts(befores),
        "frac_initial": np.concatenate([np.empty((0, 3)), *fractional]),
        "cell_initial": np.array([before.cell.array for before in befores]).reshape(-1, 3, 3),
        "frac_relaxed": np.concatenate([np.empty((0, 3)), *changed]),
        "cell_relaxed": np.array([run.atoms.cell.array for run in runs]).reshape(-1, 3, 3),
        "energy_initial": energies[:, 0],
        "energy_relaxed": energies[:, 1],
        "steps": np.array([run.steps for run in runs], dtype=np.int16),
        "prototype": np.array([k for k, *_ in pairs], dtype=np.uint8),
    }


def _ends(befores: Sequence[Atoms], runs: Sequence[Relaxed]) -> list[tuple[Atoms, Atoms]]:
    return [(before, run.atoms) for before, run in zip(befores, runs, strict=True)]


def _counts(crystals: Sequence[Atoms]) -> np.ndarray:
    return np.array([len(atoms) for atoms in crystals], dtype=np.int64)


def make_pairs(size: int, seed: int, compute: BatchedM3GNet, cache: Path) -> tuple[dict[str, np.ndarray], Counter]:
    """At least ``size`` pairs, unless the prototypes give fewer, and how many candidates ended how."""
    prototypes = read_prototypes()
    chosen = enumerate(choices(prototypes, np.random.default_rng(seed)))
    made = ((k, unrelaxed(prototypes[k], elements, np.random.default_rng([seed, n]))) for n, (k, elements) in chosen)
    candidates = ((k, atoms) for k, atoms in made if not overlaps(atoms))
    fingerprint = hashlib.sha256(f"{seed} {CHUNK} {prototypes}".encode()).hexdigest()[:12]
    cache.mkdir(parents=True, exist_ok=True)
    parts: list[dict[str, np.ndarray]] = []
    with Progress() as progress:
        bar = progress.add_task("pairs", total=size)
        while (known := sum(len(part["counts"]) for part in parts)) < size:
            if not (chunk := list(islice(candidates, CHUNK))):
                _log.warning("the prototypes give no more than %d pairs", known)
                break
            file = cache / f"{fingerprint}-{len(parts):03d}.npz"
            if not file.exists():
                unfinished = file.with_suffix(".part.npz")
                np.savez(unfinished, **chunk_of_pairs(chunk, compute, progress))
                unfinished.replace(file)
            with np.load(file, allow_pickle=False) as arrays:
                parts.append(dict(arrays))
            progress.update(bar, completed=known + len(parts[-1]["counts"]))
            _log.info("chunk %d: %s", len(parts), dict(Counter(parts[-1]["reasons"].tolist())))
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    joined["cell_relaxed"] = unturned(joined["cell_initial"], joined["cell_relaxed"])
    return joined, Counter(joined.pop("reasons").tolist())


def unturned(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(G, 3, 3) Å, the cells ``after`` turned in the plane so that they come from ``before`` by a symmetric strain."""
    cells = after.copy()
    for old, new in zip(before[:, :2, :2], cells[:, :2, :2], strict=True):
        _, stretch = polar(np.linalg.solve(old, new), side="left")
        new[:] = old @ stretch
    return cells


def same_crystals(pairs: dict[str, np.ndarray]) -> np.ndarray:
    """(G,) a number for each pair, the same where formula, energy and area of the relaxed crystals are.

    Energies within 2 meV/atom of the next, and areas per atom within 2 %, count as the same.
    """
    starts = pairs["counts"].cumsum() - pairs["counts"]
    formulas = [
        tuple(zip(*_reduced(pairs["numbers"][first : first + count]), strict=True))
        for first, count in zip(starts, pairs["counts"], strict=True)
    ]
    area = np.log(np.linalg.det(pairs["cell_relaxed"][:, :2, :2]) / pairs["counts"])
    group, last = np.zeros(len(formulas), dtype=int), -1
    order = sorted(range(len(formulas)), key=lambda k: (formulas[k], pairs["energy_relaxed"][k]))
    for before, k in zip([-1, *order], order, strict=False):
        near = before >= 0 and formulas[before] == formulas[k]
        near = near and abs(pairs["energy_relaxed"][k] - pairs["energy_relaxed"][before]) < 2e-3
        last += not (near and abs(area[k] - area[before]) < 0.02)
        group[k] = last
    return group


def _reduced(numbers: np.ndarray) -> tuple[list[int], list[int]]:
    elements, counts = np.unique(numbers, return_counts=True)
    return elements.tolist(), (counts // np.gcd.reduce(counts)).tolist()


def split_of(groups: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(G,) 0 training, 1 validation, 2 test: whole ``groups`` (G,), at random, so that :data:`SHARES` come out."""
    sizes = np.bincount(groups)
    order = generator.permutation(len(sizes))
    ends = sizes[order].cumsum() / sizes.sum()
    split = np.empty(len(sizes), dtype=np.uint8)
    split[order] = np.searchsorted(np.cumsum(SHARES)[:-1], ends - 1e-9, side="right")
    return split[groups]


def first_pairs(pairs: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """The first ``size`` pairs."""
    atoms = int(pairs["counts"][:size].sum())
    return {name: array[: atoms if name in _PER_ATOM else size] for name, array in pairs.items()}


def write_pairs(file: Path, pairs: dict[str, np.ndarray], split: np.ndarray, names: Sequence[str]) -> None:
    """In the form that `deeprelax_ase.data.load_pairs` reads, M3GNet's minima under both names for them."""
    stored = {name: a.astype(np.float32) if a.dtype == np.float64 else a for name, a in pairs.items()}
    counts = stored.pop("counts")
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        file,
        **stored,
        offsets=np.concatenate([[0], counts.cumsum()]).astype(np.int32),
        split=split,
        dft=np.zeros(len(counts), dtype=bool),
        level=np.full(len(counts), LEVELS.index("M3GNet"), dtype=np.uint8),
        m3gnet_ok=np.ones(len(counts), dtype=bool),
        frac_m3gnet=stored["frac_relaxed"],
        cell_m3gnet=stored["cell_relaxed"],
        energy_m3gnet=stored["energy_relaxed"],
        prototype_names=np.array(names),
    )


def main() -> None:
    """Choose, relax, split, write."""
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    torch.set_num_threads(1)
    compute = BatchedM3GNet(get_calculator(arguments.calculator).potential)
    pairs, reasons = make_pairs(arguments.size, arguments.seed, compute, arguments.cache)
    pairs = first_pairs(pairs, arguments.size)
    split = split_of(same_crystals(pairs), np.random.default_rng(arguments.seed))
    write_pairs(arguments.out, pairs, split, [prototype.name for prototype in read_prototypes()])
    print(f"{len(split)} pairs ({np.bincount(split, minlength=3).tolist()}) written to {arguments.out}")
    print(f"of {sum(reasons.values())} candidates, left out: { {k: n for k, n in reasons.most_common() if k} }")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="npz file to write")
    parser.add_argument("--size", type=int, default=4000, help="pairs (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of elements, shaking and split (default %(default)s)")
    parser.add_argument("--calculator", default="m3gnet", help="or m3gnet:FOLDER (default %(default)s)")
    parser.add_argument("--cache", type=Path, required=True, help="folder for what is done; to go on from there")
    return parser


if __name__ == "__main__":
    main()
