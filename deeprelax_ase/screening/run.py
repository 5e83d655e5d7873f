"""A screening on one machine: read, relax, write, and go on where it was interrupted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from deeprelax_ase.io.source import Source, open_source
from deeprelax_ase.screening.blocks import blocks_of
from deeprelax_ase.screening.manifest import Folder, Manifest, Shard
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.processes import default_workers
from deeprelax_ase.screening.relaxing import TableRelaxer
from deeprelax_ase.screening.workers import BlockReport, Job, relax_blocks

if TYPE_CHECKING:
    from deeprelax_ase.screening.manifest import Journal

#: Structures of a block: what an interruption costs, and what a file of results holds.
BLOCK_SIZE = 1000


@dataclass
class Progress:
    """How far a screening is.

    Attributes:
        total: structures of this shard.
        before: of them, how many were done when this call began.
        statuses: how many rows have each status, those of before included.
    """

    total: int
    before: int = 0
    statuses: Counter[str] = field(default_factory=Counter)

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
    block_size: int = BLOCK_SIZE,
    id_key: str | None = None,
    observe: Callable[[Progress], None] | None = None,
) -> Progress:
    """Relax everything in ``inputs`` and keep the results in the folder ``out``; the same call goes on with a run.

    Args:
        inputs: files, folders and archives, see :func:`~deeprelax_ase.io.source.open_source`.
        out: folder, made if need be.
        options: how to relax; as :class:`~deeprelax_ase.screening.options.RelaxOptions` has it by default.
        shard: which part of the work is this call's; all by default.
        workers: processes. By default, on a CPU as many as there are cores, and on GPUs up to eight for each; 0 works
            in this process. They import the script that calls this, which must do so under
            ``if __name__ == "__main__":``.
        block_size: structures of a block.
        id_key: key that names structures, see :func:`~deeprelax_ase.screening.blocks.table_of`.
        observe: is told after each block.

    Returns:
        how many results there are, and of what status.

    Raises:
        StructureFileError: an input does not exist.
        OutputError: the folder holds results of another request, or another process writes to it.
        OSError: nothing can be written; what was done is kept.
        ModelError, DeviceError, CalculatorError: the options cannot be met.
        WorkerError: processes die before they see a structure.
    """
    options, shard = options or RelaxOptions(), shard or Shard()
    relaxer = TableRelaxer(options)  # what is wrong with the options shows here, and not in other processes
    sources = [open_source(os.fspath(name)) for name in inputs]
    folder = Folder(Path(out))
    request = Manifest(
        inputs=tuple(_described(sources, folder)),
        options=options.to_dict(),
        block_size=block_size,
        shards=shard.of,
        id_key=id_key,
        weights=relaxer.predictor.model.card.sha256,
    )
    folder.agree(request)
    with folder.journal(shard) as journal:
        finished = {line["block"] for line in journal.lines}
        progress = _begun(request, shard, journal)
        if observe:
            observe(progress)
        blocks = blocks_of(sources, block_size, lambda n: shard.owns(n) and n not in finished)
        job = Job(folder.path, options, block_size, id_key)
        if (first := next(blocks, None)) is not None:
            count = default_workers(options.device) if workers is None else workers
            for report in relax_blocks(chain([first], blocks), job, workers=count):
                _keep(report, journal, progress)
                if observe:
                    observe(progress)
    return progress


def _keep(report: BlockReport, journal: Journal, progress: Progress) -> None:
    journal.append(report.line())
    progress.statuses.update(report.statuses)


def _described(sources: Iterable[Source], folder: Folder) -> Iterable[dict]:
    """Of each input its name, digest and number of structures, which is counted once for a folder."""
    counted = {}
    if (folder.path / "screen.json").exists():
        counted = {item["digest"]: item["structures"] for item in folder.request().inputs}
    for source in sources:
        digest = source.digest()
        count = counted[digest] if digest in counted else source.count()
        yield {"name": source.name, "digest": digest, "structures": count}


def _begun(request: Manifest, shard: Shard, journal: Journal) -> Progress:
    size = request.block_size
    blocks = range(-(-request.structures // size))
    total = sum(min(size, request.structures - n * size) for n in blocks if shard.owns(n))
    progress = Progress(total)
    for line in journal.lines:
        progress.statuses.update(line["statuses"])
    progress.before = progress.done
    return progress
