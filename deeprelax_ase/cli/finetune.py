"""``deeprelax finetune``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from deeprelax_ase.cli.common import require, stop
from deeprelax_ase.cli.options import (
    Device,
    DeviceOption,
    Members,
    PairFormat,
    PairKey,
    PairLevel,
    PairSources,
    Quiet,
    argument,
    optional,
)
from deeprelax_ase.cli.train import Changes, TimeLimit, execute
from deeprelax_ase.errors import DeepRelaxError

EXAMPLES = """\
Examples:

    deeprelax finetune DeepRelax-PBE --data my_pairs/ --out tuned
    deeprelax finetune DeepRelax-PBE --data unrelaxed.db --data relaxed.db --freeze backbone --members 1 --out tuned
    deeprelax relax POSCAR --model tuned/DeepRelax-PBE-tuned.json -o CONTCAR

`deeprelax data check` says what can be read. The same command goes on with a run that was stopped.
"""


class Freeze(StrEnum):
    """Part of the network that stays as it is."""

    NONE = "none"
    ELEMENTS = "elements"
    BACKBONE = "backbone"


Freezing = Annotated[
    Freeze, typer.Option(help="What stays: elements, or backbone, all but the last block or the heads.")
]
Epochs = Annotated[float | None, optional("Most epochs. Default: 60", min=0.0)]
Rate = Annotated[float | None, optional("Peak rate of AdamW. Default: 3e-4", min=0.0)]
Patience = Annotated[int | None, optional("Validations without improvement that end it. Default: 8", min=1)]
Scratch = Annotated[
    bool, typer.Option("--scratch", help="Begin with random weights, to see what the transfer is worth.")
]


def finetune(
    model: Annotated[str, argument("MODEL", "Model to start from, by name or path.")],
    data: PairSources,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder of the run.")] = Path("tuned"),
    name: Annotated[str | None, optional("Of the model. Default: MODEL-tuned")] = None,
    data_format: PairFormat = "auto",
    key: PairKey = None,
    level: PairLevel = "PBE",
    freeze: Freezing = Freeze.NONE,
    members: Members = None,
    epochs: Epochs = None,
    learning_rate: Rate = None,
    patience: Patience = None,
    scratch: Scratch = False,
    seed: Annotated[int, typer.Option(help="Of the order of the data and the augmentation.")] = 0,
    device: DeviceOption = Device.AUTO,
    changes: Changes = None,
    time_limit: TimeLimit = None,
    quiet: Quiet = False,
) -> None:
    """Let a model go on with 50 to a few thousand relaxation pairs of your own.

    Pairs that are in no split are split eight to one to one. Training ends early where the validation error no longer
    falls, and the best weights are kept.
    """
    require("lightning", "training")
    from deeprelax_ase.training import DataSettings, finetune_config

    given = {"max_epochs": epochs, "learning_rate": learning_rate, "patience": patience, "seed": seed}
    training: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    try:
        config = finetune_config(
            model,
            DataSettings(tuple(data), format=data_format, key=key, level=level),
            out,
            name=name,
            freeze=freeze.value,
            members=members,
            scratch=scratch,
            device=device.value,
            changes=changes or [],
            **training,
        )
    except (DeepRelaxError, ValueError) as error:
        stop(str(error))
    execute(config, time_limit=time_limit, quiet=quiet, again="the same command")
