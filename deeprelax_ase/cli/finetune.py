"""``deeprelax finetune``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from deeprelax_ase.cli.common import Device, require, stop
from deeprelax_ase.cli.train import execute
from deeprelax_ase.errors import DeepRelaxError

EXAMPLES = """\
Examples:

    deeprelax finetune DeepRelax-PBE --data my_pairs/ --out tuned
    deeprelax finetune DeepRelax-PBE --data unrelaxed.db --data relaxed.db --freeze backbone --members 1 --out tuned
    deeprelax relax POSCAR --model tuned/DeepRelax-PBE-tuned.json -o CONTCAR

`deeprelax data check` says what can be read. The same command goes on with a run that was stopped.
"""


class Freeze(StrEnum):
    """What of the network stays as it is."""

    NONE = "none"
    ELEMENTS = "elements"
    BACKBONE = "backbone"


def finetune(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model to start from, by name or path.")],
    data: Annotated[
        list[str],
        typer.Option("--data", metavar="SOURCE", help="Relaxation pairs; repeatable.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder of the run.")] = Path("tuned"),
    name: Annotated[str | None, typer.Option(help="Of the model. Default: MODEL-tuned", show_default=False)] = None,
    data_format: Annotated[str, typer.Option("--format", help="Of the data.")] = "auto",
    key: Annotated[
        str | None, typer.Option(help="What pairs the crystals of ASE databases and trajectories.", show_default=False)
    ] = None,
    level: Annotated[str, typer.Option(help="Whose minima the relaxed crystals are: PBE, OAM or M3GNet.")] = "PBE",
    freeze: Annotated[
        Freeze,
        typer.Option(help="What stays: elements, or backbone, all but the last block or the heads."),
    ] = Freeze.NONE,
    members: Annotated[
        int | None, typer.Option(min=1, help="Networks of the ensemble that go on. Default: all", show_default=False)
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(min=0.0, help="Most passes over the pairs. Default: 60", show_default=False)
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0.0, help="Peak rate of AdamW. Default: 3e-4", show_default=False)
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(min=1, help="Validations without improvement that end it. Default: 8", show_default=False),
    ] = None,
    scratch: Annotated[
        bool, typer.Option("--scratch", help="Begin with random weights, to see what the transfer is worth.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the order of the data and the augmentation.")] = 0,
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.AUTO,
    time_limit: Annotated[
        float | None, typer.Option(min=0.0, help="Stop after so many seconds, with a checkpoint.", show_default=False)
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Show errors only.")] = False,
) -> None:
    """Let a model go on with 50 to a few thousand relaxation pairs of your own.

    Pairs that are not split are, eight to one to one. Training ends early where the validation error no longer falls,
    and the best weights are kept.
    """
    require("lightning", "training")
    from dataclasses import replace

    from deeprelax_ase.training.config import DataSettings
    from deeprelax_ase.training.finetune import finetune_config

    given = {"max_epochs": epochs, "learning_rate": learning_rate, "patience": patience}
    training: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    try:
        settings = DataSettings(tuple(data), format=data_format, key=key, level=level)
        config = finetune_config(
            model,
            settings,
            out,
            name=name,
            freeze=freeze.value,
            members=members,
            scratch=scratch,
            seed=seed,
            **training,
        )
    except (DeepRelaxError, ValueError) as error:
        stop(str(error))
    config = replace(config, device=device.value)
    execute(config, time_limit=time_limit, quiet=quiet, again="the same command")
