"""``deeprelax evaluate``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from deeprelax_ase.cli.common import SOME_FAILED, errors, require, stop
from deeprelax_ase.cli.options import (
    Device,
    DeviceOption,
    PairFormat,
    PairKey,
    PairLabels,
    PairLevel,
    PairSources,
    Quiet,
    Recycles,
    Split,
    argument,
    optional,
)
from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.progress import progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.progress import Progress
    from torch import Tensor

    from deeprelax_ase.data import PairDataset, RelaxationPairs
    from deeprelax_ase.evaluation.assessment import Assessment
    from deeprelax_ase.prediction.predictor import Predictor
    from deeprelax_ase.prediction.record import Prediction

EXAMPLES = """\
Examples:

    deeprelax evaluate DeepRelax-PBE --data pairs.npz
    deeprelax evaluate tuned/DeepRelax-PBE-tuned.json --data my_pairs/ --split validation --json errors.json
    deeprelax evaluate DeepRelax-M3GNet --data pairs_universal.npz --labels m3gnet --no-match

The first column is the unrelaxed crystals' distance from the relaxed ones, what the paper calls the Dummy. Pairs that
cannot be used are left out and reported.
"""

#: Characters that the table is wide.
WIDTH = 100

#: How figures are written.
JSON: dict[str, Any] = {"indent": 1, "ensure_ascii": False, "allow_nan": False}


Every = Annotated[int, typer.Option(min=1, help="Take every N-th pair.")]
Matching = Annotated[
    bool, typer.Option(help="Compare by pymatgen's StructureMatcher too: the match rate and the RMSD; slow.")
]
Figures = Annotated[Path | None, optional("Write the figures here.", "--json", metavar="OUT")]
PerCrystal = Annotated[Path | None, optional("Write the errors of each crystal here.", metavar="OUT.csv")]


def evaluate(
    model: Annotated[str, argument("MODEL", "Model, by name or path.")],
    data: PairSources,
    split: Split = "test",
    labels: PairLabels = "relaxed",
    level: PairLevel = "PBE",
    data_format: PairFormat = "auto",
    key: PairKey = None,
    recycles: Recycles = None,
    match: Matching = True,
    jobs: Annotated[int, typer.Option(min=1, help="Processes for that.")] = 1,
    every: Every = 1,
    device: DeviceOption = Device.AUTO,
    output: Figures = None,
    per_crystal: PerCrystal = None,
    quiet: Quiet = False,
) -> None:
    """How near a model comes to the relaxed crystals: the paper's metrics and more, as a table and as JSON."""
    if match:
        require("pymatgen", "analysis")
    for file in (output, per_crystal):
        if file and not file.parent.is_dir():  # before the work
            stop(f"{file} cannot be written: there is no folder {file.parent}")
    shown = errors()
    with progress(shown, visible=not quiet) as bar:
        try:
            read = {"format": data_format, "key": key, "level": level, "labels": labels}
            dataset = _read(data, bar, **read)
            chosen = part(dataset, split, every)
            predictor = _predictor(model, device, recycles)
            predictions, kept, reasons = _predict(predictor, chosen.pairs, bar)
        except (DeepRelaxError, ValueError, OSError) as error:
            stop(str(error))
        left_out = {refused.name: refused.reason for refused in dataset.refused}
        left_out |= {chosen.names[n]: reason for n, reason in reasons.items()}
        chosen = chosen.take(kept)
        for note in notes(left_out, predictor, levels_of(chosen.pairs)):
            shown.print(note, markup=False, soft_wrap=True)
        assessment = _assess(chosen.pairs, predictions, bar, match=match, jobs=jobs)
    summary = assessment.summary() | coverage(predictions, assessment)
    title = f"{predictor.model_name}, {split}, {len(chosen)} pairs"
    Console(highlight=False, width=WIDTH).print(table(title, summary))
    found = {"levels": levels_of(chosen.pairs), "left_out": left_out, "metrics": summary}
    try:
        if output:
            text = json.dumps(about(predictor, data, split, labels) | found, **JSON)
            output.write_text(text + "\n", encoding="utf-8")
        if per_crystal:
            write_crystals(per_crystal, chosen.names, assessment)
    except OSError as error:
        stop(f"{error.filename} cannot be written: {error.strerror}", SOME_FAILED)


def _read(data: list[str], bar: Progress, **options: Any) -> PairDataset:
    from deeprelax_ase.data import PairDataset

    task = bar.add_task("reading pairs", total=None)
    dataset = PairDataset.read(data, **options, advance=lambda: bar.advance(task))
    bar.update(task, visible=False)
    return dataset


def _predictor(model: str, device: Device, recycles: int | None) -> Predictor:
    from deeprelax_ase.prediction.predictor import Predictor

    return Predictor(model, device=device.value, recycles=recycles)


def _predict(
    predictor: Predictor, pairs: RelaxationPairs, bar: Progress
) -> tuple[list[Prediction], Tensor, dict[int, str]]:
    """Predictions, the indices of their crystals, and why there are none of others, by index."""
    import torch

    from deeprelax_ase.data import crystals_of

    task = bar.add_task("predicting", total=len(pairs))
    predictions, kept, reasons = predict(predictor, crystals_of(pairs, "initial"), lambda: bar.advance(task))
    return predictions, torch.tensor(kept), reasons


def _assess(
    pairs: RelaxationPairs, predictions: list[Prediction], bar: Progress, *, match: bool, jobs: int
) -> Assessment:
    import numpy as np
    import torch

    from deeprelax_ase.evaluation.assessment import assess

    task = bar.add_task("matching", total=2 * len(pairs), visible=match)
    return assess(
        pairs,
        torch.from_numpy(np.concatenate([p.relaxed.fractional_positions for p in predictions])),
        torch.from_numpy(np.stack([p.relaxed.cell for p in predictions])),
        uncertainty=np.array([p.uncertainty.total for p in predictions]),
        match=match,
        jobs=jobs,
        advance=lambda: bar.advance(task),
    )


def part(dataset: PairDataset, split: str, every: int) -> PairDataset:
    """Every so many pairs of one split, or of ``all``.

    Raises:
        ValueError: there are none, or no such split.
    """
    import torch

    from deeprelax_ase.data.pairs import SPLITS

    if split not in (known := (*SPLITS, "all")):
        raise ValueError(f"Unknown {split=}, must be one of {known}")
    within = dataset if split == "all" else dataset.in_split(split)
    if not len(within):
        raise ValueError(f"there are no pairs in the split {split!r}; --split all takes every pair")
    return within.take(torch.arange(0, len(within), every))


def predict(
    predictor: Predictor, crystals: Sequence[Any], advance: Callable[[], object]
) -> tuple[list[Prediction], list[int], dict[int, str]]:
    """Predictions, the indices of their crystals, and why there are none of others, by index.

    Raises:
        ValueError: there are none at all.
    """
    from deeprelax_ase.prediction.record import Prediction

    predictions, kept, reasons = [], [], {}
    for n, result in enumerate(predictor.predict_many(crystals)):
        advance()
        if isinstance(result, Prediction):
            predictions.append(result)
            kept.append(n)
        else:
            reasons[n] = str(result)
    if not predictions:
        raise ValueError(f"{predictor.model_name} can relax none of the {len(crystals)} crystals: {reasons[0]}")
    return predictions, kept, reasons


def levels_of(pairs: RelaxationPairs) -> dict[str, int]:
    """How many relaxed crystals are minima of each level of theory."""
    from deeprelax_ase.data import LEVELS

    return dict(Counter(LEVELS[level] for level in pairs.level.tolist()))


def notes(left_out: dict[str, str], predictor: Predictor, levels: dict[str, int]) -> list[str]:
    """What is to be known of the figures: pairs that are not in them, and minima of another level than the model's."""
    said = []
    if left_out:
        name, reason = next(iter(left_out.items()))
        said.append(f"left out: {len(left_out)}, such as {name}: {reason}")
    potential = predictor.model.card.level == "M3GNet"  # OAM's minima stand for PBE's
    foreign = sum(count for level, count in levels.items() if (level == "M3GNet") != potential)
    if foreign:
        said.append(
            f"{foreign} of {sum(levels.values())} relaxed crystals are minima of another level of theory than "
            f"{predictor.model_name}'s ({predictor.model.card.level_of_theory}): the errors include the difference"
        )
    return said


def about(predictor: Predictor, data: list[str], split: str, labels: str) -> dict[str, Any]:
    """What the figures are of."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from deeprelax_ase import __version__

    card = predictor.model.card
    try:
        pymatgen = version("pymatgen")
    except PackageNotFoundError:
        pymatgen = "absent"
    return {
        "model": {
            "name": card.name,
            "sha256": card.sha256,
            "level": card.level_of_theory,
            "recycles": predictor.recycles,
        },
        "data": [Path(source).name for source in data],
        "split": split,
        "labels": labels,
        "environment": {
            "deeprelax_ase": __version__,
            "torch": torch.__version__,
            "pymatgen": pymatgen,
            "python": platform.python_version(),
            "device": str(predictor.device),
        },
    }


def coverage(predictions: list[Prediction], assessment: Assessment) -> dict[str, dict[str, Any]]:
    """Share of the crystals whose errors lie within their calibrated bounds; nothing for a model without those."""
    from deeprelax_ase.uncertainty.calibration import COVERAGE

    read = [p.error for p in predictions if p.error is not None]
    if len(read) < len(predictions):
        return {}
    bounds = {"coordinates": [e.coordinates_bound for e in read], "relative_volume": [e.volume_bound for e in read]}
    return {
        f"{name}_coverage": {
            "predicted": float((assessment.predicted[name] <= bound).mean()),
            "aimed": COVERAGE,
            "unit": "",
        }
        for name, bound in bounds.items()
    }


def table(title: str, summary: dict[str, dict[str, Any]]) -> Table:
    """A row for each metric."""
    from deeprelax_ase.evaluation.assessment import TITLES

    result = Table(title=title, box=None, pad_edge=False, title_justify="left")
    result.add_column("metric, mean", no_wrap=True)
    for column in ("unrelaxed", "predicted", "improvement", "median"):
        result.add_column(column, justify="right")
    for name, row in summary.items():
        if name in TITLES:
            gain = row["improvement_percent"]
            unit = f" ({row['unit']})" if row["unit"] else ""
            cells = (row["unrelaxed"], row["predicted"])
            median = "" if name == "match" else f"{row['predicted_median']:.4g}"
            result.add_row(
                f"{TITLES[name]}{unit}", *(f"{v:.4g}" for v in cells), "" if gain is None else f"{gain:+.1f} %", median
            )
    rank = summary.get("uncertainty_rank_correlation")
    if rank is not None and rank["predicted"] is not None:
        result.add_row("rank correlation of uncertainty", "", f"{rank['predicted']:.3f}")
    for name in ("coordinates", "relative_volume"):
        if share := summary.get(f"{name}_coverage"):
            label = f"{TITLES[name].split(',')[0]} within the {share['aimed']:.0%} bound"
            result.add_row(label, "", f"{share['predicted']:.1%}")
    return result


def write_crystals(file: Path, names: Sequence[str], assessment: Assessment) -> None:
    """A line for each crystal."""
    import csv

    metrics = list(assessment.predicted)
    uncertainty = assessment.uncertainty
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", *metrics, *(f"unrelaxed_{name}" for name in metrics), "uncertainty"])
        for n, name in enumerate(names):
            sides = (side[metric][n] for side in (assessment.predicted, assessment.unrelaxed) for metric in metrics)
            writer.writerow(
                [name, *(f"{v:.6g}" for v in sides), "" if uncertainty is None else f"{uncertainty[n]:.6g}"]
            )
