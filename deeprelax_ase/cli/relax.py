"""``deeprelax relax``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from deeprelax_ase.cli import console
from deeprelax_ase.cli.common import (
    INTERRUPTED,
    OK,
    SOME_FAILED,
    errors,
    imports,
    plain_warnings,
    stop,
    stopping,
    terminal,
    without_warnings_of_potentials,
)
from deeprelax_ase.cli.options import Overwrite, Quiet, argument, option
from deeprelax_ase.cli.relax_options import Relaxing, goes_in_batches, relaxing, tell_level, tell_one_by_one
from deeprelax_ase.errors import DeepRelaxError, UncertainPredictionError
from deeprelax_ase.progress import INTERVAL, told_count

if TYPE_CHECKING:
    from deeprelax_ase.io.frame import Frame
    from deeprelax_ase.io.source import Source
    from deeprelax_ase.optimizers.frames import RelaxedFrame
    from deeprelax_ase.screening.options import RelaxOptions

DEFAULT_OUTPUT = "relaxed.extxyz"

EXAMPLES = """\
Examples:

    deeprelax relax POSCAR -o CONTCAR
    deeprelax relax *.cif -o relaxed.extxyz
    deeprelax relax *.cif -o relaxed-%s.cif
    deeprelax relax cifs/ -o relaxed.db --max-error 0.05 --on-uncertain skip
    deeprelax relax POSCAR --calculator chgnet --finish fast -o CONTCAR
    deeprelax relax *.cif --calculator m3gnet --on-uncertain finish
    deeprelax relax slab.vasp --fixed-cell --calculator my_dft:make

Exit code 1: some crystals are uncertain, refused or failed, or did not reach fmax.
"""


Inputs = Annotated[
    list[str],
    argument("INPUT...", "Structure files, folders, archives, databases; file@0:10 takes a part."),
]
Output = Annotated[
    str,
    option(
        "File for the results, in the format of its ending; relaxed-%s.vasp makes one file for each crystal by its own "
        "name, relaxed-%04d.vasp by its number.",
        "-o",
        "--output",
        metavar="OUT",
    ),
]


@relaxing
def relax(
    inputs: Inputs,
    *,
    output: Output = DEFAULT_OUTPUT,
    how: Relaxing,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Relax the crystals of structure files.

    Each result carries the info keys deeprelax_model, deeprelax_status, deeprelax_reason and the expected errors, next
    to those of the input. Without a calculator the status is "accepted", "unchanged" (left as it is, as it would
    get no nearer to its minimum) or "uncertain". With one it is "converged" or "not converged", and deeprelax_jump says
    whether the jump was kept. A crystal that is "refused" or "failed" is written unchanged, is reported, and does not
    stop the others.
    """
    with stopping():
        with imports():
            sources, frames, file_format = _open(inputs, output, overwrite)
            options = how.options()
            made = _make_calculator(options)  # at once, so that a wrong name shows before the work
            predictor = options.predictor(made)
        tell_level(options, made, quiet=quiet)
        relax_frames = _relax_frames(options, made, quiet=quiet)
    with plain_warnings():
        without_warnings_of_potentials()
        chosen = partial(relax_frames, frames, predictor)
        tally = _run(chosen, sources, output, file_format, overwrite=overwrite, quiet=quiet, slow=made is not None)
    if "potential" in relax_frames.keywords and not quiet:
        tell_one_by_one(tally.one_by_one)
    if (restart := relax_frames.keywords.get("restart")) is not None:
        restart.clear()  # all that was relaxed is written
    raise typer.Exit(OK if tally.sound else SOME_FAILED)


def _open(inputs: list[str], output: str, overwrite: bool) -> tuple[list[Source], Iterator[Frame], str]:
    """The inputs, their frames, and the output's format, once all that can be checked before the work has been."""
    from deeprelax_ase.io.output import check_output
    from deeprelax_ase.io.source import open_source

    sources = [open_source(name) for name in inputs]
    frames = chain.from_iterable(source.frames() for source in sources)
    ahead = list(islice(frames, 2))
    file_format = check_output(output, inputs=sources, several=len(ahead) > 1, overwrite=overwrite)
    return sources, chain(ahead, frames), file_format


def _make_calculator(options: RelaxOptions) -> Any:
    if (potential := options.potential()) is None:
        return None
    from deeprelax_ase.calculators.registry import calculator_of

    return calculator_of(potential)


def _relax_frames(options: RelaxOptions, calculator: Any, *, quiet: bool) -> partial[Iterator[RelaxedFrame]]:
    """Return the function that relaxes frames, under ``calculator`` and, if needed, under others of its name."""
    from deeprelax_ase.optimizers.frames import finish_frames, predict_frames

    given: dict[str, Any] = {"limits": options.limits(), "rattle": options.rattle, "seed": options.seed}
    if calculator is None:
        return partial(predict_frames, relax_cell=options.relax_cell, on_uncertain=options.on_uncertain, **given)
    from deeprelax_ase.calculators.registry import get_batched
    from deeprelax_ase.optimizers.batched.finish import finish_frames_in_batches
    from deeprelax_ase.optimizers.finish import resolve_finish
    from deeprelax_ase.optimizers.restart import RestartFolder

    given |= {"only_uncertain": not options.finishes_all, **options.finishing()}
    if given["finish"] is not None:
        resolve_finish(given["finish"])  # a wrong name shows before the work
    if goes_in_batches(options, potential := get_batched(calculator), quiet=quiet):
        return partial(finish_frames_in_batches, potential=potential, **given)
    made = [calculator]

    def make_calculator() -> Any:
        return made.pop() if made else _make_calculator(options)

    restart = None if options.restart is None else RestartFolder(options.restart)
    return partial(finish_frames, make_calculator=make_calculator, restart=restart, **given)


def _count(sources: list[Source]) -> int:
    return sum(source.count() for source in sources)


def _run(
    relax_frames: Callable[..., Iterator[RelaxedFrame]],
    sources: list[Source],
    output: str,
    file_format: str,
    *,
    overwrite: bool,
    quiet: bool,
    slow: bool,
) -> console.Tally:
    from deeprelax_ase.io.sink import open_sink
    from deeprelax_ase.io.source import told_left_out
    from deeprelax_ase.optimizers.frames import write_frame
    from deeprelax_ase.progress import is_live, progress

    shown, tally = errors(), console.Tally()
    later = not (quiet or slow or is_live(shown))  # in logs once there is something to tell, as counting takes time
    start = time.perf_counter()
    try:
        with (
            open_sink(output, file_format, overwrite=overwrite) as sink,
            progress(shown, visible=not quiet) as bar,
        ):
            task = bar.add_task("relaxing", total=None if quiet or later else _count(sources))

            def observe(label: str, step: int) -> None:
                bar.update(task, description=f"relaxing {escape(console.short(label))}, step {step}")

            for frame in relax_frames(observe=observe) if slow else relax_frames():
                written = write_frame(sink, frame)
                tally.add(written)
                if console.is_reported(written):
                    bar.console.print(escape(console.failure(written)), soft_wrap=True)
                if later and time.perf_counter() - start > INTERVAL / 2:
                    bar.update(task, total=_count(sources))
                    later = False
                bar.advance(task)
    except KeyboardInterrupt:
        shown.print(f"interrupted: {told_count(tally.written, 'crystal')} written to {escape(output)}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    except (OSError, DeepRelaxError) as error:
        message = str(error) if isinstance(error, DeepRelaxError) else f"{output} cannot be written: {error}"
        if isinstance(error, UncertainPredictionError) and tally.written:
            message += f" What came before it is in {output}: {told_count(tally.written, 'crystal')}."
        stop(message, SOME_FAILED)
    if not quiet:
        unread = told_left_out([name for source in sources for name in source.left_out()])
        seconds = time.perf_counter() - start
        console.print_results(terminal(), tally, output, seconds=seconds, unread=unread)
    return tally
