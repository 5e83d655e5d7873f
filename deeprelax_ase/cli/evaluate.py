"""``deeprelax evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from deeprelax_ase.cli.common import Device, errors, require, stop
from deeprelax_ase.cli.console import progress
from deeprelax_ase.errors import DeepRelaxError

if TYPE_CHECKING:
    from deeprelax_ase.data import Pairs
    from deeprelax_ase.evaluation import Assessment
    from deeprelax_ase.predictor import Predictor
    from deeprelax_ase.training.predicting import Predicted

EXAMPLES = """\
Examples:

    deeprelax evaluate DeepRelax-PBE --data pairs.npz
    deeprelax evaluate tuned/DeepRelax-PBE-tuned.json --data my_pairs/ --split validation --json errors.json
    deeprelax evaluate DeepRelax-M3GNet --data pairs_universal.npz --labels m3gnet --no-match

The first column is the unrelaxed crystals' distance from the relaxed ones, what the paper calls the Dummy.
"""


#: Characters that the table is wide.
WIDTH = 100


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model, by name or path.", show_default=False)],
    data: Annotated[
        list[str],
        typer.Option("--data", metavar="SOURCE", help="Relaxation pairs; repeatable.", show_default=False),
    ],
    split: Annotated[str, typer.Option(help="Part of the pairs: train, validation, test or all.")] = "test",
    labels: Annotated[str, typer.Option(help="Of npz files: relaxed or m3gnet.")] = "relaxed",
    data_format: Annotated[str, typer.Option("--format", help="Of the data.")] = "auto",
    key: Annotated[
        str | None, typer.Option(help="What pairs the crystals of ASE databases and trajectories.", show_default=False)
    ] = None,
    passes: Annotated[
        int | None, typer.Option(min=1, help="Of an end-to-end model. Default: the card's", show_default=False)
    ] = None,
    match: Annotated[
        bool, typer.Option(help="Compare by pymatgen's StructureMatcher too: the match rate and the RMSD; slow.")
    ] = True,
    jobs: Annotated[int, typer.Option(min=1, help="Processes for that.")] = 1,
    every: Annotated[int, typer.Option(min=1, help="Take every N-th pair.")] = 1,
    device: Annotated[Device, typer.Option(help="Where the network runs.")] = Device.AUTO,
    output: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write the figures here.", show_default=False)
    ] = None,
    per_crystal: Annotated[
        Path | None,
        typer.Option(metavar="OUT.csv", help="Write the errors of each crystal here.", show_default=False),
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Show no progress.")] = False,
) -> None:
    """How near a model comes to the relaxed crystals: the paper's metrics and more, as a table and as JSON."""
    if match:
        require("pymatgen", "analysis")
    from deeprelax_ase.evaluation import assess
    from deeprelax_ase.predictor import Predictor
    from deeprelax_ase.training.predicting import predict

    try:
        names, pairs = _pairs(data, split, labels, data_format, key, every)
        predictor = Predictor(model, device=device.value, passes=passes)
        names, pairs, unknown = _known(names, pairs, predictor)
    except (DeepRelaxError, ValueError, OSError) as error:
        stop(str(error))
    from deeprelax_ase.data import crystals_of

    shown = errors()
    if unknown:
        shown.print(f"{unknown} pairs hold elements that {predictor.model_name} was not trained on: left out")
    with progress(shown, visible=shown.is_terminal and not quiet) as bar:
        try:
            found = predict(predictor, crystals_of(pairs, "initial"))
        except RuntimeError as error:
            stop(str(error))
        task = bar.add_task("matching", total=2 * len(pairs) if match else 0)
        import numpy as np
        import torch

        assessment = assess(
            pairs,
            torch.from_numpy(np.concatenate([crystal.scaled_positions for crystal in found.crystals])),
            torch.from_numpy(np.stack([crystal.cell for crystal in found.crystals])),
            uncertainty=found.uncertainty,
            match=match,
            jobs=jobs,
            advance=lambda: bar.advance(task),
        )
    summary = assessment.summary() | coverage(predictor, found, assessment)
    Console(highlight=False, width=WIDTH).print(table(f"{predictor.model_name}, {split}, {len(pairs)} pairs", summary))
    if output:
        report = {**about(predictor, data, split, labels), "left_out": unknown, "metrics": summary}
        output.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if per_crystal:
        write_crystals(per_crystal, names, assessment)


def _pairs(
    data: list[str], split: str, labels: str, data_format: str, key: str | None, every: int
) -> tuple[list[str], Pairs]:
    """Names and pairs."""
    import torch

    from deeprelax_ase.data import load_pairs

    if all(source.endswith(".npz") for source in data):
        pairs = load_pairs(data, labels=labels)
        names = [str(n) for n in range(len(pairs))]
    else:
        from deeprelax_ase.data.dataset import PairDataset

        dataset = PairDataset.read(data, format=data_format, key=key)
        pairs, names = dataset.pairs, list(dataset.names)
    kept = torch.arange(len(pairs))
    if split != "all":
        from deeprelax_ase.data.pairs import SPLITS

        if split not in SPLITS:
            raise ValueError(f"Unknown {split=}, must be one of {(*SPLITS, 'all')}")
        kept = kept[pairs.split == SPLITS[split]]
    kept = kept[::every]
    if not len(kept):
        raise ValueError(f"there are no pairs in the split {split!r}; --split all takes every pair")
    return [names[n] for n in kept.tolist()], pairs.take(kept)


def _known(names: list[str], pairs: Pairs, predictor: Predictor) -> tuple[list[str], Pairs, int]:
    """Names and pairs of crystals whose elements the model knows, and how many others there are."""
    import torch

    strange = ~torch.isin(pairs.numbers, torch.tensor(predictor.model.card.elements))
    bad = torch.zeros(len(pairs), dtype=torch.long).index_add(0, pairs.batch, strange.long()) > 0
    kept = (~bad).nonzero().squeeze(1)
    if not len(kept):
        raise ValueError(f"{predictor.model_name} knows the elements of none of the {len(pairs)} pairs")
    return [names[n] for n in kept.tolist()], pairs.take(kept), int(bad.sum())


def about(predictor: Predictor, data: list[str], split: str, labels: str) -> dict[str, Any]:
    """What the figures are of."""
    import platform

    import torch

    from deeprelax_ase import __version__

    card = predictor.model.card
    return {
        "model": {"name": card.name, "sha256": card.sha256, "level": card.level_of_theory, "passes": predictor.passes},
        "data": [Path(source).name for source in data],
        "split": split,
        "labels": labels,
        "environment": {
            "deeprelax_ase": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": str(predictor.device),
        },
    }


def coverage(predictor: Predictor, found: Predicted, assessment: Assessment) -> dict[str, dict[str, Any]]:
    """Share of the crystals whose errors lie within their calibrated bounds; nothing for a model without those."""
    if predictor.calibration is None:
        return {}
    from deeprelax_ase.calibration import COVERAGE

    read = predictor.calibration.read(found.error_signs(), found.oxides())
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
    from deeprelax_ase.evaluation import TITLES

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
    if rank is not None:
        result.add_row("rank correlation of uncertainty", "", f"{rank['predicted']:.3f}")
    for name in ("coordinates", "relative_volume"):
        if share := summary.get(f"{name}_coverage"):
            label = f"{TITLES[name].split(',')[0]} within the {share['aimed']:.0%} bound"
            result.add_row(label, "", f"{share['predicted']:.1%}")
    return result


def write_crystals(file: Path, names: list[str], assessment: Assessment) -> None:
    """A line for each crystal."""
    import csv

    metrics = list(assessment.predicted)
    uncertainty = assessment.uncertainty
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", *metrics, *(f"unrelaxed_{name}" for name in metrics), "uncertainty"])
        for n, name in enumerate(names):
            sides = (side[metric][n] for side in (assessment.predicted, assessment.unrelaxed) for metric in metrics)
            writer.writerow([name, *(f"{v:.6g}" for v in sides), "" if uncertainty is None else uncertainty[n]])
