"""Screening as jobs of jobflow, for atomate2's workflows and whatever runs them: lists of structures in, documents out.

A crystal that cannot be relaxed is a document that says why, and stops neither its job nor the flow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jobflow import Flow, Job, Maker, job
from pydantic import BaseModel, Field, create_model
from pymatgen.core import Structure

from deeprelax_ase.io.frame import escaped
from deeprelax_ase.prediction.result import COLUMNS, GEOMETRY, SCALARS
from deeprelax_ase.prediction.status import UNRELAXED
from deeprelax_ase.screening.isolated import shared_processes, shared_relaxer
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.rows import crystals_of, structures_table

if TYPE_CHECKING:
    import pyarrow as pa

    from deeprelax_ase.crystal import Crystal


class StructureDocument(BaseModel):
    """Result for one structure, with its place and name."""

    index: int = Field(description="place of the structure in the list, from 0")
    id: str = Field(description="name of the structure; its place where it was given none")
    structure: Structure | None = Field(
        None,
        description="relaxed, with the given lattice.pbc; as it was given where it is 'refused' or 'failed', None "
        "where it was not to be kept",
    )
    status: str = Field(description=COLUMNS["status"].meaning)


_DERIVED: dict[str, Any] = {
    name: (column.type | None, Field(None, description=column.meaning))
    for name, column in COLUMNS.items()
    if name in SCALARS and name != "status"
}

#: Result for one structure, with all that its row of :data:`~deeprelax_ase.screening.rows.OUTPUT` tells.
RelaxedDocument = create_model("RelaxedDocument", __base__=StructureDocument, __module__=__name__, **_DERIVED)


class ScreeningDocument(BaseModel):
    """Results for all structures of a screening."""

    statuses: dict[str, int] = Field(description="how many structures have each status")
    documents: list[RelaxedDocument] = Field(  # type: ignore[valid-type]
        description="one for each structure, in the order of the list"
    )


@dataclass
class DeepRelaxMaker(Maker):
    """Makes a job that relaxes a list of structures and returns a :class:`RelaxedDocument` for each, in order.

    Attributes:
        name: of the job.
        options: how to relax.
        workers: processes that share the list, see :class:`~deeprelax_ase.screening.isolated.IsolatedRelaxer`; one that
            is killed costs nothing but time. With 0, the default, the job works in its own process, and ends with a
            crystal that kills it. The models stay in
            memory for the next job.
    """

    name: str = "DeepRelax"
    options: RelaxOptions = field(default_factory=RelaxOptions)
    workers: int = 0

    @job
    def make(
        self, structures: Structure | Sequence[Structure], ids: Sequence[str] | None = None, first_index: int = 0
    ) -> list[StructureDocument]:
        """A job that relaxes ``structures``.

        Args:
            structures: one or many; or the output of another job.
            ids: name of each; its place by default.
            first_index: place of the first one, where the list is a part of another.
        """
        given = [structures] if isinstance(structures, Structure) else list(structures)
        table = structures_table(given, ids=ids, first_index=first_index)
        relax = shared_processes(self.options, self.workers) if self.workers else shared_relaxer(self.options)
        documents = documents_of(relax(table), given)
        self.options.announce(Counter(document.status for document in documents))
        return documents


@dataclass
class DeepRelaxShardsMaker(Maker):
    """Makes a flow that relaxes a long list: a job for each part, and one that collects a :class:`ScreeningDocument`.

    Documents take 2 to 6 kB for each structure of ten to thirty atoms, and a database may hold no more than a number of
    bytes in one (MongoDB 16 MB): this is what ``structures_per_job`` is to be chosen by, and why the last job leaves
    the structures with the others where ``collect_structures`` is off.

    Attributes:
        name: of the flow.
        relax_maker: makes each job.
        structures_per_job: the most that one job relaxes.
        collect_structures: whether the last job's document holds the structures again.
    """

    name: str = "DeepRelax screening"
    relax_maker: DeepRelaxMaker = field(default_factory=DeepRelaxMaker)
    structures_per_job: int = 500
    collect_structures: bool = True

    def make(self, structures: Sequence[Structure], ids: Sequence[str] | None = None) -> Flow:
        """A flow that relaxes ``structures``; its output is that of the job that collects.

        Args:
            structures: any number.
            ids: name of each; its place by default.

        Raises:
            ValueError: there are more or fewer names than structures, or jobs that would relax nothing.
        """
        size = self.structures_per_job
        if size < 1:
            raise ValueError(f"structures_per_job must be at least 1, got {size}")
        if ids is not None and len(ids) != len(structures):
            raise ValueError(f"{len(ids)} ids, but {len(structures)} structures")
        jobs = []
        for first in range(0, len(structures), size):
            part = slice(first, first + size)
            names = None if ids is None else list(ids[part])
            made = self.relax_maker.make(list(structures[part]), names, first_index=first)
            made.append_name(f" {first}-{min(first + size, len(structures)) - 1}")
            jobs.append(made)
        last: Job = collect([made.output for made in jobs], structures=self.collect_structures)
        return Flow([*jobs, last], output=last.output, name=self.name)


@job(output_schema=ScreeningDocument)
def collect(parts: Sequence[Sequence[StructureDocument]], structures: bool = True) -> ScreeningDocument:
    """A job that puts the documents of other jobs together.

    Args:
        parts: their outputs.
        structures: whether to keep the structures.
    """
    documents = sorted((document for part in parts for document in part), key=lambda document: document.index)
    if not structures:
        documents = [document.model_copy(update={"structure": None}) for document in documents]
    return ScreeningDocument(statuses=dict(Counter(d.status for d in documents)), documents=documents)


def documents_of(relaxed: pa.Table, given: Sequence[Structure]) -> list[StructureDocument]:
    """A document for each row; texts that are no UTF-8, which no database takes, are escaped.

    Args:
        relaxed: rows of :data:`~deeprelax_ase.screening.rows.OUTPUT`.
        given: the structure of each row, whose site properties, charges and labels its document keeps.
    """
    rows = relaxed.drop_columns(["source", *GEOMETRY]).to_pylist()
    made = []
    for row, crystal, structure in zip(rows, crystals_of(relaxed), given, strict=True):
        moved = structure if row["status"] in UNRELAXED or crystal is None else _moved(structure, crystal)
        made.append(RelaxedDocument(structure=_writable(moved), **row))
    return made


def _writable(structure: Structure) -> Structure:
    """``structure``, or where its properties or labels hold texts that are no UTF-8 a copy that has them escaped."""
    told = [structure.properties, *((site.properties, site.label) for site in structure)]
    if _escaped(told) == told:
        return structure
    copy = structure.copy()
    copy.properties = _escaped(structure.properties)
    for site in copy:
        site.properties, site.label = _escaped(site.properties), escaped(site.label)
    return copy


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, dict):
        return {_escaped(key): _escaped(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_escaped, value))
    return value


def _moved(structure: Structure, crystal: Crystal) -> Structure:
    """A copy of ``structure`` with the geometry of ``crystal``."""
    moved = structure.copy()
    moved.lattice = crystal.to_structure().lattice
    for site, position in zip(moved, crystal.positions, strict=True):
        site.coords = position
    return moved
