"""``deeprelax screen`` and ``deeprelax export``."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from deeprelax_ase.cli.common import INTERRUPTED, OK, SOME_FAILED, errors, plain_warnings, require, stop
from deeprelax_ase.cli.options import Device, DeviceOption, Members, Quiet, Recycles, RelaxCell, argument, optional
from deeprelax_ase.errors import DeepRelaxError, SourceError
from deeprelax_ase.progress import progress as bar_on

if TYPE_CHECKING:
    from deeprelax_ase.screening import run
    from deeprelax_ase.screening.options import RelaxOptions

SCREEN_EXAMPLES = """\
Examples:

    deeprelax screen candidates.extxyz --out screened
    deeprelax screen cifs/ wbm.json.gz more.parquet --out screened --max-error 0.05
    deeprelax screen candidates.db --out screened --max-error 0.05 --finish m3gnet
    srun deeprelax screen candidates.parquet --out screened --shard $((SLURM_ARRAY_TASK_ID + 1))/64
    deeprelax export screened -o relaxed.extxyz

The same command goes on with a run that was interrupted, whatever interrupted it.

Exit code: 0 all crystals are relaxed; 1 some are uncertain or failed, or nothing more could be written; 2 nothing was
done; 130 interrupted.
"""

EXPORT_EXAMPLES = """\
Examples:

    deeprelax export screened -o relaxed.extxyz
    deeprelax export screened -o relaxed.db --status predicted --status uncertain
    deeprelax export screened -o cifs/%06d.cif
    deeprelax export screened -o geo-opt.jsonl.gz        # Matbench Discovery's geometries
"""


Inputs = Annotated[
    list[str],
    argument(
        "INPUT...",
        "Extended XYZ, folders and archives (zip, tar), ASE databases, pymatgen's JSON in all shapes, "
        "Parquet, and whatever else ASE reads; file@0:10 takes a part.",
    ),
]
Out = Annotated[Path, optional("Folder for the results.", "-o", "--out", metavar="DIR")]
ModelName = Annotated[
    str | None, optional("By name or path. Default: the one for the finish", "-m", "--model", metavar="NAME")
]
MaxUncertainty = Annotated[
    float | None, optional("Å; predictions of a larger deeprelax_uncertainty count as uncertain.", min=0.0)
]
MaxError = Annotated[
    float | None,
    optional("Å; so do those expected to be further off, or unlike the crystals that the model knows.", min=0.0),
]
Finish = Annotated[
    str, typer.Option(metavar="NAME", help="Calculator under which uncertain crystals are relaxed: m3gnet, chgnet, ...")
]
Fmax = Annotated[float, typer.Option(min=0.0, help="Largest force when that is finished, eV/Å.")]
Steps = Annotated[int, typer.Option(min=1, help="Most steps of that.")]
ShardOption = Annotated[
    str, typer.Option("--shard", metavar="I/N", help="This process's share of the work, where several share a folder.")
]
Workers = Annotated[int | None, optional("Processes. Default: one for each core, on GPUs up to eight for each", min=0)]
BlockSize = Annotated[int, typer.Option(min=1, help="Crystals of a file of results.")]
AtomsPerBatch = Annotated[
    int | None, optional("Atoms that the network sees at once. Default: what suits the device", min=1)
]
Symmetry = Annotated[
    bool, typer.Option(help="Find space groups: 1 to 3 ms for each crystal, and exact where symmetry fixes atoms.")
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Fuse the network's kernels: a minute at the start, then faster on GPUs.")
]
IdKey = Annotated[str | None, optional("Info key, column or field that names a crystal.", metavar="KEY")]


def screen(
    inputs: Inputs,
    out: Out,
    model: ModelName = None,
    max_uncertainty: MaxUncertainty = None,
    max_error: MaxError = None,
    finish: Finish = "none",
    fmax: Fmax = 0.05,
    steps: Steps = 500,
    shard: ShardOption = "1/1",
    workers: Workers = None,
    block_size: BlockSize = 1000,
    atoms_per_batch: AtomsPerBatch = None,
    recycles: Recycles = None,
    members: Members = None,
    symmetry: Symmetry = True,
    compile: Compile = False,
    relax_cell: RelaxCell = None,
    id_key: IdKey = None,
    device: DeviceOption = Device.AUTO,
    quiet: Quiet = False,
) -> None:
    """Relax very many crystals, on all cores or GPUs, and lose nothing.

    The folder holds Parquet files with a row for each crystal: the relaxed geometry, its uncertainty, and a status:
    "predicted", "uncertain" beyond the limits set, "converged" or "not converged" under the finish, "failed" with the
    reason. A journal says what is done.
    """
    require("pyarrow", "screening")
    from deeprelax_ase.screening.options import RelaxOptions

    try:
        options = RelaxOptions(
            device=device.value,
            recycles=recycles,
            members=members,
            relax_cell=relax_cell,
            find_symmetry=symmetry,
            atoms_per_batch=atoms_per_batch,
            compile=compile,
            max_uncertainty=max_uncertainty,
            max_error=max_error,
            finish=finish,
            fmax=fmax,
            steps=steps,
        )
        options = replace(options, model=_model(model, finish, device))
    except (DeepRelaxError, ValueError) as error:
        stop(str(error))
    start = time.perf_counter()
    work: dict[str, Any] = {"shard": shard, "workers": workers, "block_size": block_size, "id_key": id_key}
    progress = _run(inputs, out, options, quiet=quiet, **work)
    if not quiet:
        Console(highlight=False).print(_summary(progress, out, time.perf_counter() - start), soft_wrap=True)
    sound = all(progress.statuses[status] == 0 for status in ("uncertain", "not converged", "failed"))
    raise typer.Exit(OK if sound else SOME_FAILED)


def _run(inputs: list[str], out: Path, options: RelaxOptions, *, shard: str, quiet: bool, **work: Any) -> run.Progress:
    """The screening, with a bar; ends the command where it cannot go on."""
    from deeprelax_ase.screening.manifest import Shard
    from deeprelax_ase.screening.run import screen as run_screen

    try:
        with plain_warnings(), bar_on(errors(), visible=not quiet, rate=True) as bar:
            task = bar.add_task("reading", total=None)

            def observe(progress: run.Progress) -> None:
                if progress.done == progress.before:  # so that the rate is this call's
                    bar.reset(task, total=progress.total, completed=progress.done)
                failed = progress.statuses["failed"]
                text = f"relaxing, {failed:,} failed" if failed else "relaxing"
                bar.update(task, description=text, total=progress.total, completed=progress.done)

            return run_screen(inputs, out, options, shard=Shard.parse(shard), observe=observe, **work)
    except KeyboardInterrupt:
        errors().print(f"interrupted: the same command goes on with {escape(str(out))}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    except SourceError as error:
        stop(f"{error} What was done is kept; the same command goes on.", SOME_FAILED)
    except (DeepRelaxError, ValueError) as error:
        stop(str(error))
    except OSError as error:
        stop(f"{error}. What was done is kept; the same command goes on.", SOME_FAILED)


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a screening.", show_default=False)],
    output: Annotated[
        str,
        typer.Option("-o", "--output", metavar="OUT", help="File, in the format of its ending.", show_default=False),
    ],
    status: Annotated[
        list[str] | None, typer.Option(help="Of the crystals wanted; repeatable. Default: predicted, converged")
    ] = None,
) -> None:
    """Write the crystals of a screening to a file that other programs read."""
    require("pyarrow", "screening")
    from deeprelax_ase.screening.export import TRUSTED, export_results, repeated_ids

    try:
        with plain_warnings(), bar_on(errors(), rate=True) as bar:
            task = bar.add_task("writing", total=None)
            written = export_results(folder, output, statuses=status or TRUSTED, advance=lambda n: bar.advance(task, n))
        repeated = repeated_ids(folder)
    except (DeepRelaxError, ValueError) as error:
        stop(str(error))
    except OSError as error:
        stop(f"{output} cannot be written: {error}", SOME_FAILED)
    Console(highlight=False).print(f"{written:,} crystals written to {escape(output)}", soft_wrap=True)
    if repeated:
        some = ", ".join(f"{name} ({count})" for name, count in list(repeated.items())[:3])
        errors().print(f"{len(repeated):,} ids belong to more than one crystal: {escape(some)}", soft_wrap=True)


def _model(name: str | None, finish: str, device: Device) -> str:
    """That of the user, or the one whose minima the calculator has that finishes."""
    from deeprelax_ase.models.registry import DEFAULT_MODEL

    if name is not None or finish == "none":
        return name or DEFAULT_MODEL
    from deeprelax_ase.calculators.levels import model_for
    from deeprelax_ase.calculators.registry import get_calculator

    return model_for(get_calculator(finish, device=device.value))


def _summary(progress: run.Progress, out: Path, seconds: float) -> str:
    counts = ", ".join(f"{count:,} {status}" for status, count in sorted(progress.statuses.items())) or "nothing"
    made = progress.done - progress.before
    rate = f"{seconds:.1f} s, {made / max(seconds, 1e-9):,.3g} crystals/s"
    return f"{counts} of {progress.total:,}; {made:,} of them now, in {rate}; in {escape(str(out))}"
