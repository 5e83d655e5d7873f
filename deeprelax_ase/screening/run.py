"""Work in blocks on one machine, a screening first of all: read, relax, write, and go on where it was interrupted."""

from __future__ import annotations

import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from deeprelax_ase.errors import DeepRelaxError, OutputError
from deeprelax_ase.io.frame import StructureRef
from deeprelax_ase.io.reading import values_of
from deeprelax_ase.io.source import Source, open_source
from deeprelax_ase.prediction.pool import WorkerPool
from deeprelax_ase.screening.blocks import BlockRelaxer, Relaxed, blocks_of, mark_failed
from deeprelax_ase.screening.folder import Folder
from deeprelax_ase.screening.journal import Line
from deeprelax_ase.screening.manifest import Manifest, Shard, describe, stamp_of
from deeprelax_ase.screening.options import NONE, RelaxOptions
from deeprelax_ase.screening.rows import OUTPUT, numbered

#: Turns the structures of a block into rows.
BlockWork = Callable[[Sequence[StructureRef]], Relaxed]

#: Structures of a block: what an interruption costs, and what a file of results holds. On GPUs one of small crystals
#: fills a batch.
BLOCK_SIZE, GPU_BLOCK_SIZE = 1000, 4000

#: Structures of an input that are looked into for the key of their names, and keys that are named in its place.
_LOOKED_AT, _NAMED = 1000, 10


@dataclass
class Progress:
    """Progress of a screening.

    Attributes:
        total: structures of this shard.
        before: of them, how many were done when this call began.
        statuses: how many rows have each status, those of before included.
        left_out: names of files in folders and archives that are not read, see
            :meth:`~deeprelax_ase.io.source.Source.left_out`.
    """

    total: int
    before: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Structures with a result."""
        return sum(self.statuses.values())


def screen(
    inputs: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    options: RelaxOptions | None = None,
    *,
    shard: Shard | None = None,
    workers: int | None = None,
    block_size: int | None = None,
    id_key: str | None = None,
    observe: Callable[[Progress], None] | None = None,
) -> Progress:
    """Relax everything in ``inputs`` and keep the results in the folder ``out``; the same call goes on with a run.

    Args:
        inputs: files, folders and archives, see :func:`~deeprelax_ase.io.source.open_source`.
        out: folder, made if need be.
        options: how to relax; as :class:`~deeprelax_ase.screening.options.RelaxOptions` has it by default.
        shard: the part of the work that this call does; all by default.
        workers: processes. By default, on a CPU as many as there are cores, and on GPUs up to three for each; 0 works
            in this process. They import the script that calls this, which must do so under
            ``if __name__ == "__main__":``.
        block_size: structures of a block; by default what the folder was begun with, else 1000, and on GPUs 4000.
        id_key: key that names structures, see :func:`~deeprelax_ase.io.reading.read`.
        observe: is told after each block.

    Returns:
        the number of results with each status.

    Raises:
        StructureFileError: an input does not exist.
        OutputError: the folder holds results of another request, another process writes to it, or an input changes
            while it is read.
        OSError: nothing can be written, or read any more; what was done is kept.
        DeepRelaxError: the options cannot be met.
        WorkerError: processes die before they see a structure.
        ValueError: no structure has the ``id_key``, as far as the first of each input tell.
    """
    options = options or RelaxOptions()
    with processes(partial(BlockRelaxer, options, id_key), options.device, workers) as pool:
        if pool and options.calculator == NONE:  # a potential may have to be fetched first, once
            pool.start()
        from deeprelax_ase.prediction.devices import is_gpu  # here, as it loads torch, which the processes do meanwhile

        on_gpu = is_gpu(options.device)  # what is wrong with the options shows here
        relaxer = BlockRelaxer(options, id_key, "cpu" if pool else options.device)  # GPUs are for the processes
        named = replace(options, model=options.model or relaxer.relax.predictor.model_name)  # the folder names it
        weights = relaxer.relax.predictor.model.card.sha256
        task = Task(named.to_dict(), pool or relaxer, weights=weights, announce=options.announce)
        block_size = block_size or begun_with(_folder(out, "screen")) or (GPU_BLOCK_SIZE if on_gpu else BLOCK_SIZE)
        return work_through(inputs, out, task, shard=shard, block_size=block_size, id_key=id_key, observe=observe)


def processes(
    make: Callable[[str], BlockWork], device: str, workers: int | None
) -> AbstractContextManager[WorkerPool | None]:
    """Processes for the blocks of a :class:`Task`, each with what ``make`` makes of its device; None where 0 do."""
    if workers == 0:
        return nullcontext()
    return WorkerPool(make, join=Relaxed.join, mark_failed=mark_failed, workers=workers, device=device)


@dataclass(frozen=True)
class Task:
    """Work on the structures of blocks: what :func:`screen` does to them, or something else with rows for results.

    Attributes:
        options: of the work, as its folder records them.
        does: it, in this process as :class:`~deeprelax_ase.screening.blocks.BlockRelaxer`, or :func:`processes` do.
        work: one of :data:`~deeprelax_ase.screening.manifest.WORKS`.
        schema: of the rows.
        weights: digest of the model's.
        announce: is told of the statuses of each block.
    """

    options: dict[str, Any]
    does: BlockWork | WorkerPool
    work: str = "screen"
    schema: pa.Schema = OUTPUT
    weights: str = ""
    announce: Callable[[Mapping[str, int]], object] = lambda statuses: None


def work_through(
    inputs: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    task: Task,
    *,
    shard: Shard | None = None,
    block_size: int = BLOCK_SIZE,
    id_key: str | None = None,
    observe: Callable[[Progress], None] | None = None,
) -> Progress:
    """Do the ``task`` on all ``inputs``, and keep the rows in the folder ``out``; for the rest see :func:`screen`."""
    shard, folder = shard or Shard(), _folder(out, task.work, task.schema)
    sources = [open_source(os.fspath(name)) for name in inputs]
    _refuse_mixed(sources, folder)
    if id_key is not None:
        _refuse_unknown(id_key, sources)
    described = describe(sources, folder.path, task.work)
    manifest = Manifest(described, task.options, block_size, shard.of, id_key, task.weights, work=task.work)
    manifest.agree(folder.path)
    with folder.journal(shard) as journal:
        progress = _begun(manifest, shard, journal.lines)
        if observe:
            observe(progress)
        blocks = blocks_of(sources, block_size, lambda n: shard.owns(n) and n not in journal.lines)
        for number, relaxed in _relaxed(blocks, task.does):
            _refuse_changed(sources, manifest)
            line = _written(folder, number, relaxed, first=number * block_size)
            journal.append(line)
            progress.statuses.update(line["statuses"])
            task.announce(line["statuses"])
            if observe:
                observe(progress)
        _refuse_changed(sources, manifest, folders=True)
        _refuse_missing(progress)
        progress.left_out = [name for source in sources for name in source.left_out()]
    return progress


def begun_with(folder: Folder) -> int | None:
    """The size of the blocks in a folder of results; None where there is none."""
    try:
        return Manifest.read(folder.path, folder.work).block_size
    except (OutputError, NotADirectoryError):  # a damaged one, or a file, is told of later
        return None


def _folder(out: str | os.PathLike, work: str, schema: pa.Schema = OUTPUT) -> Folder:
    if not os.fspath(out):
        raise OutputError("the name of the folder for the results is empty. Give one.")
    return Folder(Path(out), work, schema)


def _refuse_missing(progress: Progress) -> None:
    if progress.done < progress.total:
        raise OutputError(
            f"the inputs gave {progress.done:,} structures, not {progress.total:,} as when they were counted. Copy "
            "them to where they do not change, and give another folder."
        )


def _refuse_mixed(sources: Sequence[Source], folder: Folder) -> None:
    """Refuse results among the inputs."""
    place = folder.path.resolve()
    for source in sources:
        path = source.path.resolve()
        if source.path.is_dir() and path in (place, *place.parents):
            raise OutputError(f"{folder.path} lies in the input {source.name}. Give another folder.")
        if folder.keeps(source.path):
            raise OutputError(f"{source.name} belongs to the results in {folder.path}. Give another folder.")


def _refuse_unknown(id_key: str, sources: Sequence[Source]) -> None:
    """Refuse a key that no structure has, before a folder is begun with it; warn where only later ones can have it."""
    others, whole, looked = set[str](), True, 0
    for source in sources:
        refs = list(islice(source.refs(), _LOOKED_AT + 1))
        whole, looked = whole and len(refs) <= _LOOKED_AT, looked + len(refs)
        for ref in refs[:_LOOKED_AT]:
            with suppress(DeepRelaxError):  # told of in its row
                values = values_of(ref)
                if id_key in values:
                    return
                others.update(key for key, value in values.items() if isinstance(value, str | int))
    others.discard("unit_cell")  # ASE's, of every CIF file
    advice = f"Take one of theirs ({', '.join(sorted(others)[:_NAMED])}), or leave it out" if others else "Leave it out"
    if not whole:
        told = f"{id_key=} is a key of none of the first {_LOOKED_AT:,} structures. Rows without it are named by files"
        warnings.warn(told, stacklevel=3)
    elif looked:
        raise ValueError(f"{id_key=} is a key of no structure. {advice}.")


def _begun(manifest: Manifest, shard: Shard, lines: dict[int, Line]) -> Progress:
    progress = Progress(sum(manifest.size(block) for block in manifest.blocks if shard.owns(block)))
    for line in lines.values():
        progress.statuses.update(line["statuses"])
    progress.before = progress.done
    return progress


def _relaxed(
    blocks: Iterator[tuple[int, list[StructureRef]]], does: BlockWork | WorkerPool
) -> Iterator[tuple[int, Relaxed]]:
    """Relax ``blocks``, and yield them in the order in which they are done."""
    if isinstance(does, WorkerPool):
        yield from does.imap(blocks)
    else:
        yield from ((number, does(refs)) for number, refs in blocks)


def _refuse_changed(sources: Sequence[Source], manifest: Manifest, *, folders: bool = False) -> None:
    """Refuse inputs that changed: single files always, ``folders`` on request, as each of their files takes time."""
    for source, item in zip(sources, manifest.inputs, strict=True):
        if (folders or len(source.files) == 1) and stamp_of(source) != item["stamp"]:
            raise OutputError(
                f"{source.name} changed while it was read. What was done before is kept: bring the input back and give "
                "the same command, or give another folder for the new one."
            )


def _written(folder: Folder, number: int, relaxed: Relaxed, *, first: int) -> Line:
    """The line of a block for the journal, once its file is there."""
    start = time.perf_counter()
    line = folder.write(number, numbered(relaxed.table, range(first, first + len(relaxed.table))))
    seconds = {**relaxed.seconds, "write": time.perf_counter() - start}
    return {**line, "seconds": {stage: round(value, 3) for stage, value in seconds.items()}}
