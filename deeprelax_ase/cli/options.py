"""Options that several commands share: one name, one meaning, one help text."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from deeprelax_ase.cli.completion import CALCULATORS, FINISHES, Completes, models, one_of
from deeprelax_ase.models.card import MOST_RECYCLES
from deeprelax_ase.uncertainty.worsening import MAX_ODDS_WORSE


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


#: Groups of options in the help of a command; the others stand under "Other options".
PREDICTION, TRUST, FINISHING = "Prediction", "Trust in predictions", "Calculator"
MOVES, PAIRS, TRAINING = "What may move", "Relaxation pairs", "Training"
WORK = "Shared work"


def argument(metavar: str, text: str, *, completes: Completes | None = None) -> typer.models.ArgumentInfo:
    """An argument that must be given."""
    return typer.Argument(metavar=metavar, help=text, show_default=False, autocompletion=completes)


def option(
    text: str,
    *names: str,
    metavar: str | None = None,
    default: str | bool = True,
    min: float | None = None,
    max: float | None = None,
    group: str | None = None,
    completes: Completes | None = None,
) -> typer.models.OptionInfo:
    """An option.

    Args:
        text: of its help.
        *names: with their dashes; by default that of the parameter.
        metavar: name of its value, or the unit; every option that takes a value has one.
        default: told of one that follows from other things; that of the parameter by itself.
        min: least value.
        max: largest value.
        group: heading that its help stands under.
        completes: see :mod:`deeprelax_ase.cli.completion`.
    """
    return typer.Option(
        *names,
        metavar=metavar,
        help=text,
        show_default=default,
        min=min,
        max=max,
        rich_help_panel=group,
        autocompletion=completes,
    )


def words(kinds: type[StrEnum]) -> str:
    """Metavar that lists what there is to choose from."""
    return "|".join(kinds)


DeviceOption = Annotated[
    Device, option("Where networks run, and potentials in batches.", "--device", metavar=words(Device))
]
Quiet = Annotated[bool, option("Show errors only.", "-q", "--quiet")]
NoProgress = Annotated[bool, option("Show no progress.", "-q", "--quiet")]
Overwrite = Annotated[bool, option("Replace what lies there from before.", "--overwrite")]

# -- what may move, and from where

RelaxCell = Annotated[
    bool | None,
    option("Move or keep all cells.", "--relax-cell/--fixed-cell", default="keep those of slabs only", group=MOVES),
]
Mask = Annotated[
    str | None,
    option(
        "Components of the strain that may change, the others are kept: some of xx,yy,zz,yz,xz,xy, along the Cartesian "
        "axes.",
        metavar="xx,yy,xy",
        group=MOVES,
    ),
]
ConstantVolume = Annotated[bool, option("Keep the volumes of all cells.", "--constant-volume", group=MOVES)]
Pressure = Annotated[
    float | None,
    option(
        "External pressure, under which the calculator finishes every crystal; predictions know none.",
        metavar="GPA",
        min=-10_000,  # who gives more gives it in other units: crystals are known to some thousands
        max=10_000,
        group=MOVES,
    ),
]
Symmetry = Annotated[
    bool | None,
    option(
        "Keep the space group that a crystal has to 0.001 Å exactly, through the finish too; or never look for it.",
        "--keep-symmetry/--no-symmetry",
        default="end-to-end networks keep it but for rounding, and what the paper's network predicts is projected",
        group=MOVES,
    ),
]


def rattle_option() -> typer.models.OptionInfo:
    """Displacements of the start; how many there are by default is the command's own."""
    return option(
        "Displace all atoms at random by so much first (0.01 is enough): a relaxation keeps the symmetry of its start, "
        "and may so end at a saddle point.",
        metavar="Å",
        min=0.0,
        group=MOVES,
    )


Rattle = Annotated[float | None, rattle_option()]
Seed = Annotated[int | None, option("Of the random numbers of --rattle.", metavar="N", default="0", min=0, group=MOVES)]
Restart = Annotated[
    str | None,
    option(
        "Folder for what interrupted finishes need: the same command goes on with each from its last step.",
        metavar="DIR",
        group=FINISHING,
    ),
]

# -- the network, and what a prediction may cost

ModelName = Annotated[
    str | None,
    option(
        "Model, by name or path; `deeprelax models` lists them.",
        "-m",
        "--model",
        metavar="NAME",
        default="the one for the calculator",
        group=PREDICTION,
        completes=models,
    ),
]
OneShotOption = Annotated[
    OneShot,
    option(
        "What a prediction may cost: fast is one recycle of one network.",
        "--one-shot",
        metavar=words(OneShot),
        group=PREDICTION,
    ),
]
_AS_ONE_SHOT = "as --one-shot says"
Recycles = Annotated[
    int | None,
    option(
        "How often the network refines its prediction.",
        metavar="N",
        default=_AS_ONE_SHOT,
        min=1,
        max=MOST_RECYCLES,
        group=PREDICTION,
    ),
]
Members = Annotated[
    int | None,
    option("Networks of a model that is an ensemble.", metavar="N", default=_AS_ONE_SHOT, min=1, group=PREDICTION),
]

# -- which predictions are to be trusted, and what comes of the others

MaxError = Annotated[
    float | None,
    option(
        "Predictions expected to be further off in their coordinates are uncertain.", metavar="Å", min=0.0, group=TRUST
    ),
]
MaxVolumeError = Annotated[
    float | None,
    option(
        "The same of the volume, as a fraction: 0.02 is two in a hundred.", metavar="FRACTION", min=0.0, group=TRUST
    ),
]
MaxOddsWorse = Annotated[
    float | None,
    option(
        "A probability; predictions likelier to end further off than they began are uncertain; 1 for no limit.",
        metavar="P",
        default=f"{MAX_ODDS_WORSE:g}",
        min=0.0,
        group=TRUST,
    ),
]
MaxUncertainty = Annotated[
    float | None, option("So are those of a larger deeprelax_uncertainty.", metavar="Å", min=0.0, group=TRUST)
]
OnUncertainOption = Annotated[
    OnUncertain | None,
    option(
        "What comes of uncertain predictions, and of crystals unlike those that the model knows: keep hands them out, "
        "marked; warn does so with a warning; skip leaves the crystal as it was; finish relaxes it under the "
        "calculator, and it alone; raise ends relax there, what came before it written, and is refused by screen, "
        "which marks rows and loses none.",
        "--on-uncertain",
        metavar=words(OnUncertain),
        default="keep",
        group=TRUST,
    ),
]

# -- under which calculator, and how

FMAX, STEPS, FINISH = 0.05, 500, "fire"
#: Names that every command with a calculator takes.
POTENTIALS = (
    "m3gnet, tensornet, chgnet, chgnet:r2scan, sevennet, matgl:NAME of MatGL's hub, the folder of a MatGL potential, "
    "or module:factory, where the factory returns an ASE calculator or a model of TorchSim's."
)


def calculator_option(text: str, *, default: str | bool = True) -> typer.models.OptionInfo:
    """A potential; ``text`` says what is done under it."""
    return option(
        f"{text} {POTENTIALS}",
        "-c",
        "--calculator",
        metavar="NAME",
        default=default,
        group=FINISHING,
        completes=one_of(*CALCULATORS),
    )


def fmax_option(default: str | bool = True) -> typer.models.OptionInfo:
    """The force at which a relaxation ends."""
    return option("Largest force when relaxed.", metavar="eV/Å", default=default, min=0.0, group=FINISHING)


def finish_option(default: str | bool = True, more: str = "") -> typer.models.OptionInfo:
    """The optimizer, and what ``more`` there is to choose from."""
    return option(
        f"Optimizer: by its name in ASE, such as fire; or fast, which takes the fewest force calls{more}.",
        metavar="NAME",
        default=default,
        group=FINISHING,
        completes=one_of(*FINISHES),
    )


def steps_option(default: str | bool = True) -> typer.models.OptionInfo:
    """The longest relaxation."""
    return option("Most steps for each crystal.", metavar="N", default=default, min=1, group=FINISHING)


CalculatorName = Annotated[
    str,
    calculator_option(
        "Finish each prediction under this calculator, or with --on-uncertain finish the uncertain ones: none,"
    ),
]
Finish = Annotated[str | None, finish_option(FINISH, "; or none, for the jump alone")]
Fmax = Annotated[float | None, fmax_option(f"{FMAX:g}")]
Steps = Annotated[int | None, steps_option(str(STEPS))]

# -- work that many processes share, in a folder that the same command goes on with


def out_option(text: str = "Folder for the results.", *, default: str | bool = True) -> typer.models.OptionInfo:
    """The folder that a command writes."""
    return option(text, "-o", "--out", metavar="DIR", default=default)


OutFolder = Annotated[str, out_option()]
OutputFile = Annotated[str, option("File, in the format of its ending.", "-o", "--output", metavar="OUT")]
Shard = Annotated[
    str,
    option("This process's share of the work, where several share a folder.", "--shard", metavar="I/N", group=WORK),
]
IdKey = Annotated[
    str | None, option("Info key, column or field that names a crystal.", metavar="KEY", default=False, group=WORK)
]


def workers_option(default: str) -> typer.models.OptionInfo:
    """Number of processes; ``default`` says it where none is given."""
    return option("Processes; 0 for this one alone.", metavar="N", default=default, min=0, group=WORK)
