"""``deeprelax bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deeprelax_ase.cli.common import errors, refuse_taken, stopping, terminal
from deeprelax_ase.cli.completion import models, one_of
from deeprelax_ase.cli.options import (
    FINISH,
    FMAX,
    PAIRS,
    STEPS,
    Device,
    DeviceOption,
    Members,
    NoProgress,
    OneShot,
    OneShotOption,
    Overwrite,
    Recycles,
    calculator_option,
    finish_option,
    fmax_option,
    option,
    out_option,
    steps_option,
)
from deeprelax_ase.cli.pair_options import PairLabels, PairSources, Split
from deeprelax_ase.progress import progress

if TYPE_CHECKING:
    from deeprelax_ase.evaluation.baselines import Limits, Relax

#: Pairs of a quick measurement.
QUICK = 30

#: Files in the folder of a measurement.
NAMES = ("bench.json", "bench.md")

EXAMPLES = """\
Examples:

    deeprelax bench --data pairs.npz --quick
    deeprelax bench DeepRelax-M3GNet --data pairs.npz --labels m3gnet \\
        --number 200 --out bench
    deeprelax bench --data pairs.npz --device cuda --number 1000 \\
        --calculator my_models:make
    deeprelax bench --data my_pairs/ --baseline nothing --baseline relaxer

Speed stands beside the accuracy at that speed. Baselines: nothing, volume (pymatgen's DLSVolumePredictor), fire and
lbfgs (ASE under M3GNet), batched (the same FIRE, forces of many crystals at once), relaxer (MatGL's own).
"""


Model = Annotated[str, typer.Argument(metavar="MODEL", help="Model, by name or path.", autocompletion=models)]
Baselines = Annotated[
    list[str] | None,
    option(
        "What to compare with; repeatable.",
        metavar="NAME",
        default="nothing, volume, fire, batched",
        completes=one_of("nothing", "volume", "fire", "lbfgs", "batched", "relaxer"),
    ),
]
Calculator = Annotated[
    str | None,
    calculator_option("Potential to relax under in batches as well, next to the baselines:", default=False),
]
Finish = Annotated[str, finish_option()]
Fmax = Annotated[float, fmax_option()]
Steps = Annotated[int, steps_option()]
Number = Annotated[int, option("Most pairs, evenly taken.", metavar="N", min=1, group=PAIRS)]
Quick = Annotated[bool, option(f"{QUICK} pairs: minutes on a laptop.", "--quick", group=PAIRS)]


def bench(
    data: PairSources,
    model: Model = "DeepRelax-PBE",
    out: Annotated[Path | None, out_option("Folder for bench.json and bench.md.")] = None,
    split: Split = "test",
    labels: PairLabels = "relaxed",
    number: Number = 300,
    quick: Quick = False,
    one_shot: OneShotOption = OneShot.DEFAULT,
    recycles: Recycles = None,
    members: Members = None,
    baseline: Baselines = None,
    calculator: Calculator = None,
    finish: Finish = FINISH,
    fmax: Fmax = FMAX,
    steps: Steps = STEPS,
    device: DeviceOption = Device.AUTO,
    overwrite: Overwrite = False,
    quiet: NoProgress = False,
) -> None:
    """Measure a model on pairs beside what else relaxes them: speed, accuracy, uncertainty, and force calls saved.

    All predictions count, uncertain ones too, so `--on-uncertain`, `--max-error` and the other limits of trust have no
    use here.
    """
    if out is not None:
        refuse_taken(*(out / name for name in NAMES if out.is_dir()), overwrite=overwrite)
    import torch

    from deeprelax_ase.data import PairDataset
    from deeprelax_ase.evaluation.baselines import DEFAULT_BASELINES, Limits
    from deeprelax_ase.evaluation.benchmark import bench as measure
    from deeprelax_ase.evaluation.benchmark_page import markdown
    from deeprelax_ase.evaluation.model_evaluation import part_of
    from deeprelax_ase.evaluation.results import write_json

    with stopping():
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
        with progress(errors(), visible=not quiet) as bar:
            dataset = part_of(PairDataset.read(data, labels=labels), split)
            wanted = min(QUICK if quick else number, len(dataset))
            pairs = dataset.pairs.take(torch.linspace(0, len(dataset) - 1, wanted).long())

            def observe(name: str, crystals: int) -> Any:
                task = bar.add_task(name, total=crystals)
                return lambda: bar.advance(task)

            limits = Limits(fmax, steps)
            cost = {"one_shot": one_shot.value, "recycles": recycles, "members": members}
            others = {} if calculator is None else _under(calculator, finish, limits, device.value)
            found = measure(
                pairs,
                model,
                baselines=baseline or DEFAULT_BASELINES,
                others=others,
                cost=cost,
                limits=limits,
                device=device.value,
                observe=observe,
            )
        found |= {"data": [Path(source).name for source in data], "split": split, "labels": labels}
        text = markdown(found, f"{model} on {', '.join(found['data'])}, {split}")
        terminal().print(text, markup=False, soft_wrap=True)
        if out is not None:
            write_json(out / NAMES[0], found)
            (out / NAMES[1]).write_text(text, encoding="utf-8")


def _under(name: str, finish: str, limits: Limits, device: str) -> dict[str, Relax]:
    """Relaxations in batches under a potential: ours, and TorchSim's own under a model of TorchSim's."""
    from deeprelax_ase.calculators import TorchSimPotential, get_batched
    from deeprelax_ase.evaluation.baselines import in_batches, torch_sim_optimizer

    potential = get_batched(name, device=device)
    found = {f"{finish.upper()} in batches, {name}": in_batches(finish, potential, limits)}
    if isinstance(potential, TorchSimPotential):
        found[f"TorchSim's FIRE in batches, {name}"] = torch_sim_optimizer(potential, limits)
    return found
