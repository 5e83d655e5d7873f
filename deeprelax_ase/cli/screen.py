"""``deeprelax screen`` and ``deeprelax export``."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from deeprelax_ase.cli.common import OK, SOME_FAILED, errors, plain_warnings, require, stopping, terminal, working_in
from deeprelax_ase.cli.completion import one_of
from deeprelax_ase.cli.console import counts
from deeprelax_ase.cli.options import (
    PREDICTION,
    WORK,
    IdKey,
    OutFolder,
    OutputFile,
    Overwrite,
    Quiet,
    Shard,
    argument,
    option,
    workers_option,
)
from deeprelax_ase.cli.relax_options import Relaxing, goes_in_batches, relaxing, tell_level, tell_one_by_one
from deeprelax_ase.prediction.status import STATUSES, TRUSTED, UNRELAXED
from deeprelax_ase.progress import progress as bar_on
from deeprelax_ase.progress import told_count, told_speed

if TYPE_CHECKING:
    from deeprelax_ase.screening import run
    from deeprelax_ase.screening.options import RelaxOptions

SCREEN_EXAMPLES = """\
Examples:

    deeprelax screen candidates.extxyz --out screened
    deeprelax screen cifs/ wbm.json.gz --out screened --max-error 0.05
    deeprelax screen candidates.db --out screened \\
        --calculator m3gnet --on-uncertain finish
    srun deeprelax screen candidates.parquet --out screened \\
        --shard $((SLURM_ARRAY_TASK_ID + 1))/64
    deeprelax export screened -o relaxed.extxyz

The same command goes on with a run that was interrupted, whatever interrupted it. Nothing is overwritten: a folder that
was begun with other inputs or options is refused.

Exit code 1: some crystals are uncertain, refused or failed, or did not reach fmax, or nothing more could be written.
"""

EXPORT_EXAMPLES = """\
Examples:

    deeprelax export screened -o relaxed.extxyz
    deeprelax export screened -o all.db --status accepted --status uncertain
    deeprelax export screened -o cifs/%06d.cif
    deeprelax export screened -o geo-opt.jsonl.gz  # for Matbench Discovery
"""


Inputs = Annotated[
    list[str],
    argument(
        "INPUT...",
        "Extended XYZ, folders and archives (zip, tar), ASE databases, pymatgen's JSON in all shapes, "
        "Parquet, and whatever else ASE reads; file@0:10 takes a part.",
    ),
]
Workers = Annotated[int | None, workers_option("one for each core, on GPUs up to three for each")]
BlockSize = Annotated[
    int | None, option("Crystals of a file of results.", metavar="N", default="1000, on GPUs 4000", min=1, group=WORK)
]
AtomsPerBatch = Annotated[
    int | None,
    option(
        "Atoms that the network sees at once.", metavar="N", default="what suits the device", min=1, group=PREDICTION
    ),
]
Compile = Annotated[
    bool,
    option("Fuse the network's kernels: a minute at the start, then faster on GPUs.", "--compile", group=PREDICTION),
]
Status = Annotated[
    list[str] | None,
    option(
        "Status wanted; repeatable.",
        "--status",
        metavar="STATUS",
        default=", ".join(TRUSTED),
        completes=one_of(*STATUSES),
    ),
]


@relaxing
def screen(
    inputs: Inputs,
    out: OutFolder,
    how: Relaxing,
    shard: Shard = "1/1",
    workers: Workers = None,
    block_size: BlockSize = None,
    atoms_per_batch: AtomsPerBatch = None,
    compile: Compile = False,
    id_key: IdKey = None,
    quiet: Quiet = False,
) -> None:
    """Relax very many crystals, on all cores or GPUs, and lose nothing.

    Parquet files hold a row for each crystal: the relaxed geometry, its expected errors, and a status with its reason:
    "accepted", "unchanged" (left, as it would get no nearer) or "uncertain"; "converged" or "not converged" under the
    calculator; "refused" or "failed". A journal says what is done.
    """
    require("pyarrow", "screening")
    from deeprelax_ase.io.source import open_source

    with stopping():
        for name in inputs:  # before the potential is fetched
            open_source(name)
        options = how.options(atoms_per_batch=atoms_per_batch, compile=compile)
        if (potential := options.potential()) is not None:
            from deeprelax_ase.calculators.registry import calculator_of

            tell_level(options, calculator_of(potential), quiet=quiet)
    work = {"shard": shard, "workers": workers, "block_size": block_size, "id_key": id_key}
    together = potential is not None and goes_in_batches(options, potential, quiet=quiet)
    code = _screened(inputs, out, options, quiet=quiet, **work)
    if together and not quiet:
        tell_one_by_one(_one_by_one(out))
    raise typer.Exit(code)


def _screened(inputs: list[str], out: str, options: RelaxOptions, *, quiet: bool, **work: Any) -> int:
    """The exit code of the screening, once it is done and told of."""
    start = time.perf_counter()
    progress = _run(inputs, out, options, quiet=quiet, **work)
    if not quiet:
        for line in filter(None, (_summary(progress, out, time.perf_counter() - start), _left_out(progress))):
            terminal().print(line, soft_wrap=True)
    return SOME_FAILED if set(+progress.statuses) - set(TRUSTED) else OK


def _run(inputs: list[str], out: str, options: RelaxOptions, *, shard: str, quiet: bool, **work: Any) -> run.Progress:
    """The screening, with a bar; ends the command where it cannot go on."""
    from deeprelax_ase.screening.manifest import Shard as Share
    from deeprelax_ase.screening.run import screen as run_screen

    with working_in(out, quiet=quiet) as show:

        def observe(progress: run.Progress) -> None:
            failed = sum(progress.statuses[status] for status in UNRELAXED)
            show(progress, f"relaxing, {failed:,} refused or failed" if failed else "relaxing")

        return run_screen(inputs, out, options, shard=Share.parse(shard), observe=observe, **work)


def export(
    folder: Annotated[Path, argument("DIR", "Folder of a screening.")],
    output: OutputFile,
    status: Status = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write the crystals of a screening to a file that other programs read."""
    require("pyarrow", "screening")
    from deeprelax_ase.screening.export import export_results, repeated_ids
    from deeprelax_ase.screening.folder import Folder

    with stopping(output), plain_warnings(), bar_on(errors(), visible=not quiet) as bar:
        task = bar.add_task("writing", total=Folder(folder).manifest().structures)
        written = export_results(
            folder,
            output,
            statuses=status or TRUSTED,
            overwrite=overwrite,
            advance=lambda n: bar.advance(task, n),
        )
        repeated = repeated_ids(folder)
    if not quiet:
        terminal().print(f"{told_count(written, 'crystal')} written to {escape(output)}", soft_wrap=True)
    if repeated:
        some = ", ".join(f"{name} ({count})" for name, count in list(repeated.items())[:3])
        errors().print(f"{len(repeated):,} ids belong to more than one crystal: {escape(some)}", soft_wrap=True)


def _one_by_one(out: str) -> int:
    """Count the crystals in the folder whose constraints are not kept in batches."""
    from deeprelax_ase.io.constraints import are_kept_in_batches, constraints_of
    from deeprelax_ase.screening.folder import Folder

    told = Counter(
        text for table in Folder(Path(out)).tables(["constraints"]) for text in table["constraints"].to_pylist()
    )
    return sum(count for text, count in told.items() if not are_kept_in_batches(constraints_of(text)))


def _left_out(progress: run.Progress) -> str:
    from deeprelax_ase.io.source import told_left_out

    return escape(told_left_out(progress.left_out))


def _summary(progress: run.Progress, out: str, seconds: float) -> str:
    made = progress.done - progress.before
    rate = f", in {seconds:.1f} s, {told_speed(made / max(seconds, 1e-9))} crystals/s" if made else ""
    return f"{counts(progress.statuses)} of {progress.total:,}; {made:,} of them now{rate}; in {escape(str(out))}"
