"""``deeprelax relax``."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from deeprelax_ase.cli import console
from deeprelax_ase.cli.common import INTERRUPTED, OK, SOME_FAILED, errors, stop
from deeprelax_ase.cli.options import Device, DeviceOption, Quiet, RelaxCell, argument, optional
from deeprelax_ase.errors import DeepRelaxError

if TYPE_CHECKING:
    from deeprelax_ase.io.frame import Frame
    from deeprelax_ase.io.source import Source
    from deeprelax_ase.optimizers.batch import RelaxedFrame
    from deeprelax_ase.prediction.predictor import Predictor

DEFAULT_OUTPUT = "relaxed.extxyz"
_FMAX, _STEPS, _FINISH = 0.05, 500, "fire"

EXAMPLES = """\
Examples:

    deeprelax relax POSCAR -o CONTCAR
    deeprelax relax *.cif -o relaxed.extxyz
    deeprelax relax candidates.extxyz@0:1000 -o relaxed.db
    deeprelax relax POSCAR --calculator chgnet --finish fast --fmax 0.03 -o CONTCAR
    deeprelax relax slab.vasp --fixed-cell --calculator my_dft:make

Exit code: 0 all crystals are relaxed; 1 some failed, or did not reach fmax; 2 nothing was done; 130 interrupted.
"""


Inputs = Annotated[
    list[str],
    argument("INPUT...", "Structure files, folders, archives, databases; file@0:10 takes a part."),
]
Output = Annotated[
    str,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT",
        help="File for the results, in the format of its ending; name-%04d.vasp makes one file for each crystal.",
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
CalculatorName = Annotated[
    str,
    typer.Option(
        "-c",
        "--calculator",
        metavar="NAME",
        help="Finish each prediction under this calculator: none, m3gnet, tensornet, chgnet, the folder of a MatGL "
        "potential, or module:factory, where the factory returns an ASE calculator.",
    ),
]
Finish = Annotated[
    str | None,
    optional(
        f"Optimizer that finishes, by its name in ASE, or fast, which takes the fewest force calls. Default: {_FINISH}",
        metavar="NAME",
    ),
]
Fmax = Annotated[float | None, optional(f"Largest force when finished, eV/Å. Default: {_FMAX}", min=0.0)]
Steps = Annotated[int | None, optional(f"Most steps for each crystal. Default: {_STEPS}", min=1)]


def relax(
    inputs: Inputs,
    output: Output = DEFAULT_OUTPUT,
    model: ModelName = None,
    calculator: CalculatorName = "none",
    finish: Finish = None,
    fmax: Fmax = None,
    steps: Steps = None,
    device: DeviceOption = Device.AUTO,
    relax_cell: RelaxCell = None,
    quiet: Quiet = False,
) -> None:
    """Relax the crystals of structure files.

    Each result carries the info keys deeprelax_model, deeprelax_uncertainty (Å) and deeprelax_status, next to those of
    the input. Without a calculator the status is "predicted": the crystal is where the model expects its minimum. With
    one it is "converged" or "not converged", and deeprelax_jump says whether the jump was kept. A crystal that cannot
    be relaxed is written unchanged with the status "failed: reason", is reported, and does not stop the others.
    """
    if calculator.lower() == "none" and not (fmax is steps is finish is None):
        stop("--finish, --fmax and --steps say how to finish under a calculator; give one with --calculator.")
    try:
        sources, frames, file_format = _open(inputs, output)
        made = _make_calculator(calculator, device)  # at once, so that a wrong name shows before the work
        predictor = _load_predictor(model, made, device)
        relax_frames = _finisher(
            calculator,
            made,
            device,
            fmax=_FMAX if fmax is None else fmax,
            steps=steps or _STEPS,
            optimizer=finish or _FINISH,
        )
    except (DeepRelaxError, ValueError) as error:
        stop(str(error))
    relaxed = relax_frames(frames, predictor, relax_cell=relax_cell)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(chgnet|dgl|matgl|torch)\b")  # nothing a user could mend
        tally = _run(relaxed, sources, output, file_format, quiet=quiet)
    raise typer.Exit(SOME_FAILED if tally.failed or tally.not_converged else OK)


def _open(inputs: list[str], output: str) -> tuple[list[Source], Iterator[Frame], str]:
    """The inputs, their frames, and the output's format, once all that can be checked before the work has been."""
    from deeprelax_ase.io.output import check_output
    from deeprelax_ase.io.source import open_source

    sources = [open_source(name) for name in inputs]
    frames = chain.from_iterable(source.frames() for source in sources)
    ahead = list(islice(frames, 2))
    file_format = check_output(output, inputs=sources, several=len(ahead) > 1)
    return sources, chain(ahead, frames), file_format


def _make_calculator(name: str, device: Device) -> Any:
    if name.lower() == "none":
        return None
    from deeprelax_ase.calculators.registry import get_calculator

    return get_calculator(name, device=device.value)


def _load_predictor(model: str | None, calculator: Any, device: Device) -> Predictor:
    from deeprelax_ase.calculators.levels import model_for
    from deeprelax_ase.prediction.predictor import Predictor

    return Predictor(model or model_for(calculator), device=device.value)


def _finisher(
    name: str, calculator: Any, device: Device, *, fmax: float, steps: int, optimizer: str
) -> Callable[..., Iterator[RelaxedFrame]]:
    """What relaxes frames, under ``calculator`` first and under others of that name if more are needed."""
    from functools import partial

    from deeprelax_ase.optimizers.batch import finish_frames, predict_frames

    if calculator is None:
        return predict_frames
    from deeprelax_ase.optimizers.finish import resolve_finish

    resolve_finish(optimizer)  # a wrong name shows before the work
    made = [calculator]

    def make_calculator() -> Any:
        return made.pop() if made else _make_calculator(name, device)

    return partial(finish_frames, make_calculator=make_calculator, fmax=fmax, steps=steps, finish=optimizer)


def _run(
    relaxed: Iterator[RelaxedFrame], sources: list[Source], output: str, file_format: str, *, quiet: bool
) -> console.Tally:
    from deeprelax_ase.io.sink import open_sink
    from deeprelax_ase.optimizers.batch import write_frame
    from deeprelax_ase.progress import is_live, progress

    shown, tally = errors(), console.Tally()
    total = sum(source.count() for source in sources) if is_live(shown) and not quiet else None
    start = time.perf_counter()
    try:
        if not quiet and Path(output).exists():
            shown.print(f"{escape(output)} of an earlier run will be replaced", soft_wrap=True)
        with open_sink(output, file_format) as sink, progress(shown, visible=not quiet) as bar:
            task = bar.add_task("relaxing", total=total)
            for frame in relaxed:
                written = write_frame(sink, frame)
                tally.add(written)
                if not written.result.ok:
                    bar.console.print(escape(console.failure(written)), soft_wrap=True)
                bar.advance(task)
    except KeyboardInterrupt:
        shown.print(f"interrupted: {tally.written} crystals are in {escape(output)}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    except (OSError, DeepRelaxError) as error:
        message = str(error) if isinstance(error, DeepRelaxError) else f"{output} cannot be written: {error}"
        stop(message, SOME_FAILED)
    if not quiet:
        console.print_results(Console(highlight=False), tally, output, seconds=time.perf_counter() - start)
    return tally
