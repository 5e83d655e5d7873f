"""``deeprelax evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from rich.table import Table

from deeprelax_ase.cli.common import SOME_FAILED, errors, refuse_taken, require, stop, terminal
from deeprelax_ase.cli.completion import models
from deeprelax_ase.cli.options import (
    PAIRS,
    Device,
    DeviceOption,
    Members,
    NoProgress,
    OneShot,
    OneShotOption,
    Overwrite,
    Recycles,
    argument,
    option,
)
from deeprelax_ase.cli.pair_options import PairFormat, PairKey, PairLabels, PairLevel, PairSources, Split
from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.progress import progress, told_count

EXAMPLES = """\
Examples:

    deeprelax evaluate DeepRelax-PBE --data pairs.npz
    deeprelax evaluate tuned/DeepRelax-PBE-tuned.json --data my_pairs/ \\
        --split validation --json errors.json
    deeprelax evaluate DeepRelax-M3GNet --data pairs.npz \\
        --labels m3gnet --no-match

The first column is the unrelaxed crystals' distance from the relaxed ones, what the paper calls the Dummy. Pairs that
cannot be used are left out and reported.
"""


Every = Annotated[int, option("Take every N-th pair.", metavar="N", min=1, group=PAIRS)]
Matching = Annotated[
    bool,
    option(
        "Compare by pymatgen's StructureMatcher too: the match rate and the RMSD; slow.",
        "--match/--no-match",
        default="match",
    ),
]
Jobs = Annotated[int, option("Processes for the matching.", metavar="N", min=1)]
Figures = Annotated[Path | None, option("Write the figures here.", "--json", metavar="OUT")]
PerCrystal = Annotated[Path | None, option("Write the errors of each crystal here.", metavar="OUT.csv")]


def evaluate(
    model: Annotated[str, argument("MODEL", "Model, by name or path.", completes=models)],
    data: PairSources,
    split: Split = "test",
    labels: PairLabels = "relaxed",
    level: PairLevel = "PBE",
    data_format: PairFormat = "auto",
    key: PairKey = None,
    one_shot: OneShotOption = OneShot.DEFAULT,
    recycles: Recycles = None,
    members: Members = None,
    match: Matching = True,
    jobs: Jobs = 1,
    every: Every = 1,
    device: DeviceOption = Device.AUTO,
    output: Figures = None,
    per_crystal: PerCrystal = None,
    overwrite: Overwrite = False,
    quiet: NoProgress = False,
) -> None:
    """Compare a model's predictions with relaxed crystals: the paper's metrics and more, as a table and as JSON."""
    if match:
        require("pymatgen", "analysis")
    refuse_taken(output, per_crystal, overwrite=overwrite)
    from deeprelax_ase.data import PairDataset
    from deeprelax_ase.evaluation.model_evaluation import PredictedDataset, part_of
    from deeprelax_ase.evaluation.results import write_json
    from deeprelax_ase.prediction.predictor import Predictor

    shown = errors()
    with progress(shown, visible=not quiet) as bar:
        try:
            reading = bar.add_task("reading pairs", total=None)
            read: dict[str, Any] = {"format": data_format, "key": key, "level": level, "labels": labels}
            dataset = PairDataset.read(
                data,
                **read,
                advance=lambda: bar.advance(reading),
                expect=lambda total: bar.update(reading, total=total),
            )
            bar.update(reading, visible=False)
            chosen = part_of(dataset, split, every)
            predictor = Predictor(
                model, device=device.value, one_shot=one_shot.value, recycles=recycles, members=members
            )
            predicting = bar.add_task("predicting", total=len(chosen))
            found = PredictedDataset.of(predictor, chosen, advance=lambda: bar.advance(predicting))
        except (DeepRelaxError, ValueError, OSError) as error:
            stop(str(error))
        for note in found.notes():
            shown.print(note, markup=False, soft_wrap=True)
        matching = bar.add_task("matching", total=2 * len(found.dataset), visible=match)
        assessment = found.assess(match=match, jobs=jobs, advance=lambda: bar.advance(matching))
    metrics = found.metrics(assessment)
    title = f"{predictor.model_name}, {split}, {told_count(len(found.dataset), 'pair')}"
    terminal().print(table(title, metrics))
    try:
        if output:
            given = {"data": [Path(source).name for source in data], "split": split, "labels": labels}
            write_json(output, found.about() | given | {"metrics": metrics})
        if per_crystal:
            found.write_crystals(per_crystal, assessment)
    except OSError as error:
        stop(f"{error.filename} cannot be written: {error.strerror}", SOME_FAILED)


def table(title: str, summary: dict[str, dict[str, Any]]) -> Table:
    """A row for each metric."""
    from deeprelax_ase.evaluation.assessment import TITLES

    result = Table(title=title, box=None, pad_edge=False, title_justify="left")
    result.add_column("metric, mean", no_wrap=True)
    for column in ("unrelaxed", "predicted", "gain", "median"):
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
