"""Many crystals relaxed into pairs to learn from, on the journal of a screening: nothing lost, nothing done twice."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deeprelax_ase.calculators import get_batched, model_for
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.data import SPLITS, PairDataset
from deeprelax_ase.data.dataset import LABELLED as PAIRS
from deeprelax_ase.data.dataset import check_split
from deeprelax_ase.data.readers import RawPair
from deeprelax_ase.io.source import open_source
from deeprelax_ase.labelling.relaxer import LabelOptions
from deeprelax_ase.labelling.rows import LABELLED, LABELS, LEFT_BASIN, BlockLabeller
from deeprelax_ase.models.registry import M3GNET_RELAX_MODEL
from deeprelax_ase.prediction.devices import device_of
from deeprelax_ase.prediction.judgement import kind_of_reason
from deeprelax_ase.prediction.status import FAILED, REFUSED
from deeprelax_ase.screening.folder import Folder
from deeprelax_ase.screening.manifest import Shard
from deeprelax_ase.screening.run import Progress, Task, begun_with, processes, work_through

#: Crystals of a block, what an interruption costs: on a CPU, and on GPUs, which want many at once.
BLOCK_SIZE, GPU_BLOCK_SIZE = 50, 1000

#: Processes for each GPU: one computes while crystals of the other come and go.
_PER_GPU = 2

_WORK = "label"


@dataclass(frozen=True)
class LabelReport:
    """Result of a labelling.

    Attributes:
        progress: of this call's share.
        counts: crystals by status, those of all shares that are done; those that were refused, failed or left their
            basin by the reason too.
        pairs: file that holds the pairs; None where there is none.
        splits: pairs in each part of it.
        missing: crystals of other shares that are not done yet.
    """

    progress: Progress
    counts: Counter[str]
    pairs: Path | None
    splits: dict[str, int]
    missing: int


def label(
    inputs: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    options: LabelOptions,
    *,
    shard: Shard | None = None,
    workers: int | None = None,
    block_size: int | None = None,
    id_key: str | None = None,
    observe: Callable[[Progress], None] | None = None,
    **split: Any,
) -> LabelReport:
    """Relax everything in ``inputs``, and keep in the folder ``out`` what can be learnt from; the same call goes on.

    A row for each crystal tells what became of it, see :data:`~deeprelax_ase.labelling.rows.LABELS`. At the end the
    pairs of all rows, those of other shares too, are written to ``pairs.npz``: :func:`write_pairs`.

    Args:
        inputs: see :func:`~deeprelax_ase.screening.screen`, as of all arguments but these.
        block_size: crystals that are relaxed side by side; by default what the folder was begun with, else 50, and on
            GPUs 1000.
        workers: processes; by default one for each core, and on GPUs two for each.
        out: folder, made if need be.
        options: how.
        **split: see :func:`write_pairs`.

    Raises:
        OutputError, StructureFileError, WorkerError, OSError: see :func:`~deeprelax_ase.screening.screen`.
        CalculatorError: the potential cannot be had.
        DataError: the split is not understood.
    """
    check_split(**split)
    for name in inputs:  # what is wrong with them shows before a potential is fetched
        open_source(name)
    on_gpu = device_of(options.device).type == "cuda"
    if workers is None and on_gpu:
        workers = _PER_GPU * (1 if ":" in options.device else torch.cuda.device_count())
    block_size = block_size or begun_with(label_folder(out)) or (GPU_BLOCK_SIZE if on_gpu else BLOCK_SIZE)
    here = BlockLabeller(options, id_key, options.device)  # what is wrong with the options shows here
    work: dict[str, Any] = {"shard": shard, "block_size": block_size, "id_key": id_key}
    with processes(partial(BlockLabeller, options, id_key), options.device, workers) as pool:
        task = Task(asdict(options), pool or here, work=_WORK, schema=LABELS)
        progress = work_through(inputs, out, task, observe=observe, **work)
    folder = label_folder(out)
    splits = write_pairs(out, **split)
    pairs = Path(out) / PAIRS if splits else None
    return LabelReport(progress, _counts(folder), pairs, splits, folder.missing().total())


def label_folder(out: str | os.PathLike) -> Folder:
    """The folder of a labelling: its rows, and which are done."""
    return Folder(Path(out), _WORK, LABELS)


def write_pairs(
    out: str | os.PathLike,
    *,
    level: str = "PBE",
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    group_by: str = "composition",
    seed: int = 0,
) -> dict[str, int]:
    """Write the pairs of a labelling, as far as it is done, to ``pairs.npz`` in its folder.

    The file is what :meth:`PairDataset.read <deeprelax_ase.data.PairDataset.read>` reads, with the forces, stresses and
    energies at the start that :func:`~deeprelax_ase.data.load_pairs` knows of, if the potential has stresses.

    Args:
        out: the folder.
        level: whose minima the labels are, one of :data:`~deeprelax_ase.data.LEVELS`: that in whose place a network
            learns them.
        fractions, group_by, seed: of the split, see :meth:`PairDataset.read <deeprelax_ase.data.PairDataset.read>`.

    Returns:
        the number of pairs in each part; nothing where there is no pair, and no file then.

    Raises:
        OutputError: the folder holds no labelling, or is damaged.
        DataError: a setting is unknown.
    """
    rows = list(_labelled(label_folder(out)))
    if not rows:
        (Path(out) / PAIRS).unlink(missing_ok=True)
        return {}
    dataset = PairDataset.of(map(_pair, rows), level=level, fractions=fractions, group_by=group_by, seed=seed)
    fixed = torch.tensor([row["fixed_cell"] for row in rows])
    dataset = replace(dataset, pairs=replace(dataset.pairs, fixed_cell=fixed))
    known = {name: np.array([row[name] for row in rows]) for name in ("energy_initial", "energy_relaxed")}
    if all(row["forces_initial"] is not None for row in rows):
        forces = np.concatenate([row["forces_initial"] for row in rows]).reshape(-1, 3)
        stresses = np.array([row["stress_initial"] for row in rows]).reshape(-1, 3, 3)
        known |= {"forces_initial": forces.astype(np.float32), "stress_initial": stresses.astype(np.float32)}
    dataset.save(Path(out) / PAIRS, **known)
    return {name: int((dataset.pairs.split == index).sum()) for name, index in SPLITS.items()}


def label_level(calculator: str) -> str:
    """Level in whose place labels of this calculator, a name, are learnt unless another is asked for.

    That of M3GNet is for M3GNet-MP-2021.2.8-PES alone, which is told by its weights.

    Raises:
        CalculatorError: the calculator cannot be had.
    """
    return "M3GNet" if model_for(get_batched(calculator, device="cpu")) == M3GNET_RELAX_MODEL else "PBE"


def _labelled(folder: Folder) -> Iterator[dict[str, Any]]:
    for table in folder.tables():
        yield from (row for row in table.to_pylist() if row["status"] == LABELLED)


def _pair(row: dict[str, Any]) -> RawPair:
    initial, relaxed = (
        Crystal(row["numbers"], row[positions], row[cell])
        for positions, cell in (("positions_initial", "cell_initial"), ("positions", "cell"))
    )
    return RawPair(row["id"], initial, relaxed, in_order=True)


def _counts(folder: Folder) -> Counter[str]:
    counts = Counter[str]()
    for table in folder.tables(["status", "reason"]):
        for row in table.to_pylist():
            status, reason = row["status"], row["reason"] or ""
            if status in (REFUSED, FAILED):
                reason = kind_of_reason(reason)
            if status == REFUSED:
                reason = reason.partition(": ")[0]  # what follows says more than a line should
            counts[f"{status}: {reason}" if status in (LEFT_BASIN, REFUSED, FAILED) else status] += 1
    return counts
