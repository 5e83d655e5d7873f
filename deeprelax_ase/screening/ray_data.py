"""Screening on Ray Data: as many nodes as the cluster has, each worker with a model of its own.

Ray runs the work of a killed process again, so that a killed process costs time and nothing else. Rows may come in
another order than they went in: ``index`` and ``id`` say which is which, and ``dataset.sort("index")`` brings the order
back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset

from deeprelax_ase.io.frame import StructureRef
from deeprelax_ase.screening.blocks import table_of
from deeprelax_ase.screening.isolated import IsolatedRelaxer
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.rows import INPUT, numbered, structures_table
from deeprelax_ase.screening.table_relaxer import TableRelaxer

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

    from deeprelax_ase.crystal import Crystal

#: Structures of a batch: what a killed process has to do again.
BATCH_SIZE = 256

#: Workers that may die one after the other while they load the model, before the run fails: more is no accident.
_DEATHS_AT_START = 10


def structures_dataset(
    structures: Iterable[Crystal | Atoms | Structure],
    *,
    ids: Sequence[str] | None = None,
    block_size: int = BATCH_SIZE,
) -> Dataset:
    """A dataset of structures that are in memory; large ones are better read by Ray, see :func:`relax_dataset`.

    Args:
        structures: of any kind; those that cannot be relaxed are rows that say why.
        ids: of each; its index by default.
        block_size: structures of a block; a worker takes one or more at a time.
    """
    rest, tables, first = iter(structures), [], 0
    while chunk := list(islice(rest, block_size)):
        names = None if ids is None else ids[first : first + len(chunk)]
        tables.append(structures_table(chunk, ids=names, first_index=first))
        first += len(chunk)
    return ray.data.from_arrow(tables or [INPUT.empty_table()])


def relax_dataset(
    dataset: Dataset,
    *,
    options: RelaxOptions | None = None,
    batch_size: int = BATCH_SIZE,
    concurrency: int | tuple[int, int] | None = None,
    num_cpus: float | None = None,
    num_gpus: float = 0,
    id_key: str | None = None,
) -> Dataset:
    """The relaxed crystals of ``dataset``, lazily: rows of :data:`~deeprelax_ase.screening.rows.OUTPUT`.

    Nothing is lost where a process or a node dies, and nothing comes twice. A crystal that kills its process each time
    is a row that failed.

    Args:
        dataset: rows of :data:`~deeprelax_ase.screening.rows.INPUT`, as :func:`structures_dataset` makes them, or of
            what ``ray.data.read_parquet`` and ``ray.data.read_json`` read: columns ``numbers``, ``positions`` and
            ``cell``, or ``structure`` in pymatgen's form, and a name of the structure.
        options: how to relax; as :class:`~deeprelax_ase.screening.options.RelaxOptions` has it by default. A worker
            with a GPU uses it where ``device`` is ``auto``, one without uses the CPU.
        batch_size: structures that a worker relaxes at a time.
        concurrency: workers, or the fewest and the most; by default, from one to as many as the cluster has room for.
        num_cpus: cores of each worker, and threads that it computes in; Ray's default is one, and none with a GPU.
        num_gpus: of each worker; a fraction shares a GPU.
        id_key: column that names structures, see :func:`~deeprelax_ase.screening.blocks.table_of`.

    Raises:
        ValueError: a number is too small.
    """
    options = options or RelaxOptions()
    if options.device == "auto":  # what Ray shows a worker that it gives no GPU differs between its versions
        options = replace(options, device="cuda" if num_gpus else "cpu")
    relaxed = dataset.map_batches(
        BatchRelaxer,
        fn_constructor_kwargs={"options": options, "id_key": id_key},
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=_pool(concurrency),
        num_cpus=num_cpus,
        num_gpus=num_gpus or None,
        udf_modifying_row_count=False,
    )
    # Ray Data restarts the actors of a pool and runs their tasks again, without limit unless it is told otherwise. One
    # that dies while it loads the model ends the run, though, unless this says that it may.
    if getattr(relaxed.context, "max_consecutive_actor_init_deaths", _DEATHS_AT_START) == 0:
        relaxed.context.max_consecutive_actor_init_deaths = _DEATHS_AT_START
    return relaxed


def _pool(concurrency: int | tuple[int, int] | None) -> ActorPoolStrategy:
    if concurrency is None:
        return ActorPoolStrategy()
    if isinstance(concurrency, int):
        return ActorPoolStrategy(size=concurrency)
    fewest, most = concurrency
    return ActorPoolStrategy(min_size=fewest, max_size=most)


class BatchRelaxer:
    """State of a worker of Ray's: the model, and the way to read rows.

    Args:
        options: how to relax.
        id_key: see :func:`relax_dataset`.

    Raises:
        ModelError, DeviceError: see :class:`~deeprelax_ase.screening.table_relaxer.TableRelaxer`.
    """

    #: Makes the function that relaxes a table, here or in a child process.
    make: Callable[[RelaxOptions], Callable[[pa.Table], pa.Table]] = TableRelaxer

    def __init__(self, options: RelaxOptions, id_key: str | None = None) -> None:
        self.id_key, self.options = id_key, options
        # A crystal may have ended this worker before. Ray is about to send it again, and would for ever.
        died_before = ray.is_initialized() and ray.get_runtime_context().was_current_actor_reconstructed
        self.relax = IsolatedRelaxer(options, make=self.make) if died_before else self.make(options)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """A row of OUTPUT for each row of ``batch``, in order."""
        relaxed = self.relax(as_input(batch, self.id_key))
        self.options.announce(Counter(relaxed.column("status").to_pylist()))
        return relaxed


def as_input(batch: pa.Table, id_key: str | None = None) -> pa.Table:
    """Rows of any columns as rows of :data:`~deeprelax_ase.screening.rows.INPUT`.

    ``index`` is that of the batch, or null where it has none: rows of a dataset are not counted.

    Args:
        batch: see :func:`relax_dataset`.
        id_key: see there.
    """
    if id_key is None and set(INPUT.names) <= set(batch.column_names):
        return batch.select(INPUT.names).cast(INPUT)
    rows = batch.to_pylist()
    refs = [StructureRef(row.get("source") or "", "row", row) for row in rows]
    return numbered(table_of(refs, id_key=id_key), [row.get("index") for row in rows])
