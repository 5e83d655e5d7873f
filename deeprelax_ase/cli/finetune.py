"""``deeprelax finetune``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from deeprelax_ase.cli.common import require, stopping
from deeprelax_ase.cli.completion import models
from deeprelax_ase.cli.options import TRAINING, Device, DeviceOption, Quiet, argument, option, out_option, words
from deeprelax_ase.cli.pair_options import (
    Changes,
    PairFormat,
    PairKey,
    PairLevel,
    PairSources,
    TimeLimit,
    TrainedMembers,
)
from deeprelax_ase.cli.train import execute

EXAMPLES = """\
Examples:

    deeprelax finetune DeepRelax-PBE --data my_pairs/ --out tuned
    deeprelax finetune DeepRelax-PBE --data unrelaxed.db --data relaxed.db \\
        --freeze backbone --members 1 --out tuned
    deeprelax relax POSCAR -m tuned/DeepRelax-PBE-tuned.json -o CONTCAR

`deeprelax data check` says what can be read. The same command goes on with a run that was stopped; a folder
that was begun with other settings or data is refused.
"""


class Freeze(StrEnum):
    """Part of the network that stays as it is."""

    NONE = "none"
    ELEMENTS = "elements"
    BACKBONE = "backbone"


Freezing = Annotated[
    Freeze,
    option(
        "What stays: elements, or backbone, all but the last block or the heads.",
        metavar=words(Freeze),
        group=TRAINING,
    ),
]
Epochs = Annotated[float | None, option("Most epochs.", metavar="N", default="60", min=0.0, group=TRAINING)]
Rate = Annotated[float | None, option("Peak rate of AdamW.", metavar="RATE", default="3e-4", min=0.0, group=TRAINING)]
Patience = Annotated[
    int | None,
    option("Validations without improvement that end it.", metavar="N", default="8", min=1, group=TRAINING),
]
Scratch = Annotated[
    bool, option("Begin with random weights, to see what the transfer is worth.", "--scratch", group=TRAINING)
]


def finetune(
    model: Annotated[str, argument("MODEL", "Model to start from, by name or path.", completes=models)],
    data: PairSources,
    out: Annotated[Path, out_option("Folder of the run.")] = Path("tuned"),
    name: Annotated[str | None, option("Of the model.", "--name", metavar="NAME", default="MODEL-tuned")] = None,
    data_format: PairFormat = "auto",
    key: PairKey = None,
    level: PairLevel = "PBE",
    freeze: Freezing = Freeze.NONE,
    members: TrainedMembers = None,
    epochs: Epochs = None,
    learning_rate: Rate = None,
    patience: Patience = None,
    scratch: Scratch = False,
    seed: Annotated[int, option("Of the order of the data and the augmentation.", metavar="N")] = 0,
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
    require("jsonargparse", "training")  # MatGL brings the former alone
    from deeprelax_ase.training import DataSettings, finetune_config

    given = {"max_epochs": epochs, "learning_rate": learning_rate, "patience": patience, "seed": seed}
    training: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    with stopping():
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
    execute(config, time_limit=time_limit, quiet=quiet, again="the same command")
