"""Options that several commands share: one name, one meaning, one help text."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from deeprelax_ase.models.card import MOST_RECYCLES
from deeprelax_ase.prediction.judgement import MAX_ODDS_WORSE


class Device(StrEnum):
    """Device on which the network runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class OnUncertain(StrEnum):
    """Treatment of predictions that are not to be trusted."""

    KEEP = "keep"
    WARN = "warn"
    SKIP = "skip"
    FINISH = "finish"
    RAISE = "raise"


class OneShot(StrEnum):
    """Permitted cost of a prediction."""

    DEFAULT = "default"
    FAST = "fast"


def argument(metavar: str, text: str) -> typer.models.ArgumentInfo:
    """An argument that must be given."""
    return typer.Argument(metavar=metavar, help=text, show_default=False)


def optional(
    text: str, *names: str, metavar: str | None = None, min: float | None = None, max: float | None = None
) -> typer.models.OptionInfo:
    """An option whose default is told in its help, if there is anything to tell."""
    return typer.Option(*names, metavar=metavar, help=text, min=min, max=max, show_default=False)


DeviceOption = Annotated[Device, typer.Option("--device", help="Where the network runs, and what finishes in batches.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Show errors only.")]
RelaxCell = Annotated[
    bool | None,
    typer.Option("--relax-cell/--fixed-cell", help="Move or keep all cells. Default: keep those of slabs only."),
]
Mask = Annotated[
    str | None,
    optional(
        "Components of the strain that may change, the others are kept: some of xx,yy,zz,yz,xz,xy, along the Cartesian "
        "axes.",
        metavar="xx,yy,xy",
    ),
]
ConstantVolume = Annotated[bool, typer.Option("--constant-volume", help="Keep the volumes of all cells.")]
Pressure = Annotated[
    float | None,
    optional("GPa, external, under which the calculator finishes every crystal; predictions know none.", metavar="GPA"),
]
Symmetry = Annotated[
    bool | None,
    optional(
        "Keep the space group that a crystal has to 0.001 Å exactly, through the finish too; or never look for it. "
        "Default: end-to-end networks keep it but for rounding, and what the paper's network predicts is projected",
        "--keep-symmetry/--no-symmetry",
    ),
]
Rattle = Annotated[
    float | None,
    optional("Å; displace the atoms at random first, as symmetry may hold a crystal at a saddle point.", min=0.0),
]
Seed = Annotated[int | None, optional("Of the random numbers of --rattle. Default: 0", min=0)]
Restart = Annotated[
    str | None,
    optional(
        "Folder for what interrupted finishes need: the same command goes on with each from its last step.",
        metavar="DIR",
    ),
]
ModelName = Annotated[
    str | None,
    optional(
        "Model, by name or path; `deeprelax models` lists them. Default: the one for the calculator",
        "-m",
        "--model",
        metavar="NAME",
    ),
]

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what lies there from before.")]

# -- which predictions are to be trusted, and what comes of the others

MaxError = Annotated[
    float | None, optional("Å; predictions expected to be further off in their coordinates are uncertain.", min=0.0)
]
MaxVolumeError = Annotated[
    float | None, optional("The same of the volume, as a fraction: 0.02 is two in a hundred.", min=0.0)
]
MaxOddsWorse = Annotated[
    float | None,
    optional(
        "A probability; predictions likelier to end further off than they began are uncertain; 1 for no limit. "
        f"Default: {MAX_ODDS_WORSE}",
        min=0.0,
    ),
]
MaxUncertainty = Annotated[float | None, optional("Å; so are those of a larger deeprelax_uncertainty.", min=0.0)]
OnUncertainOption = Annotated[
    OnUncertain | None,
    optional(
        "What comes of uncertain predictions, and of crystals unlike those that the model knows: keep hands them out, "
        "marked; warn does so with a warning; skip leaves the crystal as it was; finish relaxes it under the "
        "calculator, and it alone; raise ends relax there, what came before it written, and is refused by screen, "
        "which marks rows and loses none. Default: keep",
        "--on-uncertain",
    ),
]

# -- under which calculator, and how, predictions are finished

FMAX, STEPS, FINISH = 0.05, 500, "fire"
CalculatorName = Annotated[
    str,
    typer.Option(
        "-c",
        "--calculator",
        metavar="NAME",
        help="Finish each prediction under this calculator, or with --on-uncertain finish the uncertain ones: none, "
        "m3gnet, tensornet, chgnet, sevennet, matgl:NAME of MatGL's hub, the folder of a MatGL potential, or "
        "module:factory, where the factory returns an ASE calculator or a model of TorchSim's.",
    ),
]
Finish = Annotated[
    str | None,
    optional(
        "Optimizer that finishes, by its name in ASE; fast, which takes the fewest force calls; or none, for the jump "
        f"alone. Default: {FINISH}",
        metavar="NAME",
    ),
]
Fmax = Annotated[float | None, optional(f"Largest force when finished, eV/Å. Default: {FMAX}", min=0.0)]
Steps = Annotated[int | None, optional(f"Most steps for each crystal. Default: {STEPS}", min=1)]

OneShotOption = Annotated[
    OneShot, typer.Option("--one-shot", help="What a prediction may cost: fast is one recycle of one network.")
]
Recycles = Annotated[
    int | None,
    optional("How often the network refines its prediction. Default: as --one-shot says", min=1, max=MOST_RECYCLES),
]
Members = Annotated[int | None, optional("Networks of a model that is an ensemble. Default: as --one-shot says", min=1)]

PairSources = Annotated[
    list[str], optional("Relaxation pairs, SOURCE@0:10 for a part; repeatable.", "--data", metavar="SOURCE")
]
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
