"""Options on relaxation pairs, and on training with them, that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from deeprelax_ase.cli.completion import one_of
from deeprelax_ase.cli.options import PAIRS, TRAINING, option

PairSources = Annotated[
    list[str],
    option(
        "Relaxation pairs: a relaxation's trajectory or a folder of them, a folder of NAME_unrelaxed.cif and "
        "NAME_relaxed.cif, an npz file, ASE databases, relaxation documents. SOURCE@0:10 takes a part; repeatable.",
        "--data",
        metavar="SOURCE",
        group=PAIRS,
    ),
]
FORMATS = ("npz", "cif", "cryslator", "mpf", "ase-db", "documents", "trajectory", "auto")
PairFormat = Annotated[
    str,
    option(
        f"{', '.join(FORMATS[:-1])}, or auto.",
        "--format",
        metavar="FORMAT",
        group=PAIRS,
        completes=one_of(*FORMATS),
    ),
]
PairKey = Annotated[
    str | None,
    option("What pairs the crystals of ASE databases and trajectories.", "--key", metavar="KEY", group=PAIRS),
]
_LEVELS = one_of("PBE", "OAM", "M3GNet")
PairLevel = Annotated[
    str,
    option(
        "Whose minima the relaxed crystals are, if the source does not say: PBE, OAM or M3GNet.",
        "--level",
        metavar="LEVEL",
        group=PAIRS,
        completes=_LEVELS,
    ),
]
LearntLevel = Annotated[
    str | None,
    option(
        "Level of theory in whose place a network learns the labels: PBE, OAM or M3GNet.",
        "--level",
        metavar="LEVEL",
        default="M3GNet of M3GNet-MP-2021.2.8-PES, told by its weights; PBE of all others",
        group=PAIRS,
        completes=_LEVELS,
    ),
]
PairLabels = Annotated[
    str,
    option(
        "Of npz files: relaxed or m3gnet.",
        "--labels",
        metavar="LABELS",
        group=PAIRS,
        completes=one_of("relaxed", "m3gnet"),
    ),
]
Split = Annotated[
    str,
    option(
        "Part of the pairs: train, validation, test or all.",
        "--split",
        metavar="PART",
        group=PAIRS,
        completes=one_of("train", "validation", "test", "all"),
    ),
]
Fractions = Annotated[
    tuple[float, float, float],
    option(
        "Shares for training, validation and test, of pairs that are not split yet.",
        metavar="F F F",
        group=PAIRS,
    ),
]


def group_by_option(text: str) -> typer.models.OptionInfo:
    """Pairs that are never parted from each other."""
    return option(
        f"{text}: composition, chemical system, or pair.",
        "--group-by",
        metavar="WHAT",
        group=PAIRS,
        completes=one_of("composition", "chemical system", "pair"),
    )


GroupBy = Annotated[str, group_by_option("Kept on one side of a split")]


# -- training

Changes = Annotated[
    list[str] | None,
    option("Replace a setting of the run; repeatable.", "--set", metavar="NAME=VALUE", group=TRAINING),
]
TimeLimit = Annotated[
    float | None, option("Stop after so many seconds, with a checkpoint.", metavar="S", min=0.0, group=TRAINING)
]
TrainedMembers = Annotated[
    int | None,
    option(
        "Networks of the ensemble to train.",
        "--members",
        metavar="N",
        default="all of the model",
        min=1,
        group=TRAINING,
    ),
]
