"""``deeprelax bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from deeprelax_ase.cli.common import SOME_FAILED, errors, stop
from deeprelax_ase.cli.options import Device, DeviceOption, PairLabels, PairSources, Quiet, Split, optional
from deeprelax_ase.errors import CalculatorError, DeepRelaxError
from deeprelax_ase.progress import progress

if TYPE_CHECKING:
    from deeprelax_ase.evaluation.relaxation import Limits, Relax

#: Pairs of a quick measurement.
QUICK = 30

EXAMPLES = """\
Examples:

    deeprelax bench --data pairs.npz --quick
    deeprelax bench DeepRelax-M3GNet --data pairs.npz --labels m3gnet --number 200 --out bench
    deeprelax bench --data pairs.npz --device cuda --number 1000 --torch-sim my_models:make
    deeprelax bench --data my_pairs/ --baseline nothing --baseline fire --baseline lbfgs --baseline relaxer

Speed stands beside the accuracy at that speed. Baselines: nothing, volume (pymatgen's DLSVolumePredictor), fire and
lbfgs (ASE under M3GNet), batched (the same FIRE, forces of many crystals at once), relaxer (MatGL's own).
"""


Baselines = Annotated[
    list[str] | None, optional("What to compare with; repeatable. Default: nothing, volume, fire, batched")
]
TorchSim = Annotated[
    str | None, optional("What makes a model of TorchSim's, to relax in batches.", metavar="MODULE:FUNCTION")
]


def bench(
    data: PairSources,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model, by name or path.")] = "DeepRelax-PBE",
    out: Annotated[Path | None, optional("Folder for bench.json and bench.md.", "-o", "--out", metavar="DIR")] = None,
    split: Split = "test",
    labels: PairLabels = "relaxed",
    number: Annotated[int, typer.Option(min=1, help="Most pairs, evenly taken.")] = 300,
    quick: Annotated[bool, typer.Option("--quick", help=f"{QUICK} pairs: minutes on a laptop.")] = False,
    baseline: Baselines = None,
    torch_sim: TorchSim = None,
    fmax: Annotated[float, typer.Option(min=0.0, help="Largest force when a relaxation ends, eV/Å.")] = 0.05,
    steps: Annotated[int, typer.Option(min=1, help="Most steps of one.")] = 500,
    device: DeviceOption = Device.AUTO,
    quiet: Quiet = False,
) -> None:
    """Measure a model on pairs beside what else relaxes them: speed, accuracy, uncertainty, and force calls saved."""
    import torch

    from deeprelax_ase.data import PairDataset
    from deeprelax_ase.evaluation.baselines import DEFAULT_BASELINES
    from deeprelax_ase.evaluation.benchmark import bench as measure
    from deeprelax_ase.evaluation.benchmark_page import markdown
    from deeprelax_ase.evaluation.model_evaluation import part_of
    from deeprelax_ase.evaluation.relaxation import Limits

    try:
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
            others = {} if torch_sim is None else _under(torch_sim, limits)
            found = measure(
                pairs,
                model,
                baselines=baseline or DEFAULT_BASELINES,
                others=others,
                limits=limits,
                device=device.value,
                observe=observe,
            )
        found |= {"data": [Path(source).name for source in data], "split": split, "labels": labels}
        text = markdown(found, f"{model} on {', '.join(found['data'])}, {split}")
        Console(highlight=False).print(text, markup=False, soft_wrap=True)
        if out is not None:
            _write(out, found, text)
    except (DeepRelaxError, ValueError) as error:
        stop(str(error))
    except OSError as error:
        stop(f"{error.filename} cannot be read or written: {error.strerror}", SOME_FAILED)


def _under(name: str, limits: Limits) -> dict[str, Relax]:
    """Relaxations in batches under a model of TorchSim's: ours and its own."""
    from deeprelax_ase.calculators import TorchSimPotential, get_batched
    from deeprelax_ase.evaluation.baselines import in_batches
    from deeprelax_ase.evaluation.batched_torch_sim import torch_sim_optimizer

    potential = get_batched(name)
    if not isinstance(potential, TorchSimPotential):
        raise CalculatorError(f"{name!r} makes no model of TorchSim's; --baseline compares with what ASE's have")
    return {
        f"FIRE in batches, {name}": in_batches("fire", potential, limits),
        f"TorchSim's FIRE in batches, {name}": torch_sim_optimizer(potential, limits),
    }


def _write(out: Path, found: dict[str, Any], text: str) -> None:
    written = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    (out / "bench.json").write_text(written, encoding="utf-8")
    (out / "bench.md").write_text(text, encoding="utf-8")
