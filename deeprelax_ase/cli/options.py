"""Options that several commands share: one name, one meaning, one help text."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Device(StrEnum):
    """Where the network runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def argument(metavar: str, text: str) -> typer.models.ArgumentInfo:
    """An argument that must be given."""
    return typer.Argument(metavar=metavar, help=text, show_default=False)


def optional(text: str, *names: str, metavar: str | None = None, min: float | None = None) -> typer.models.OptionInfo:
    """An option whose default is told in its help, if there is anything to tell."""
    return typer.Option(*names, metavar=metavar, help=text, min=min, show_default=False)


DeviceOption = Annotated[Device, typer.Option("--device", help="Where the network runs.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Show errors only.")]
RelaxCell = Annotated[
    bool | None,
    typer.Option("--relax-cell/--fixed-cell", help="Move or keep all cells. Default: keep those of slabs only."),
]
Recycles = Annotated[int | None, optional("How often the network refines its prediction. Default: the model's", min=1)]
Members = Annotated[int | None, optional("Networks of the ensemble. Default: all", min=1)]

PairSources = Annotated[list[str], optional("Relaxation pairs; repeatable.", "--data", metavar="SOURCE")]
PairFormat = Annotated[
    str, typer.Option("--format", help="npz, cif, cryslator, mpf, ase-db, documents, trajectory, or auto.")
]
PairKey = Annotated[str | None, optional("What pairs the crystals of ASE databases and trajectories.", "--key")]
PairLevel = Annotated[
    str,
    typer.Option(
        "--level", help="Whose minima the relaxed crystals are, if the source does not say: PBE, OAM, M3GNet."
    ),
]
PairLabels = Annotated[str, typer.Option("--labels", help="Of npz files: relaxed or m3gnet.")]
Split = Annotated[str, typer.Option("--split", help="Part of the pairs: train, validation, test or all.")]
