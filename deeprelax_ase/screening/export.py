"""The results of a screening in the files that other programs read."""

from __future__ import annotations

import gzip
import json
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deeprelax_ase.errors import OutputError, StructureFileError
from deeprelax_ase.io.output import check_output
from deeprelax_ase.io.sink import open_sink
from deeprelax_ase.io.source import open_source
from deeprelax_ase.prediction.status import STATUSES, TRUSTED
from deeprelax_ase.screening.folder import Folder
from deeprelax_ase.screening.rows import atoms_of, crystals_of

if TYPE_CHECKING:
    import os

    from deeprelax_ase.screening.manifest import Manifest

_LINES = (".jsonl", ".jsonl.gz")


def export_results(
    folder: str | os.PathLike,
    output: str,
    *,
    statuses: Collection[str] = TRUSTED,
    advance: Callable[[int], None] | None = None,
) -> int:
    """Write the crystals of a screening, in the order of the inputs; a warning says if some are not done yet.

    Args:
        folder: of the screening.
        output: file, in the format of its ending: any that ASE writes, ``name-%06d.cif`` for a file for each crystal,
            or ``.jsonl`` and ``.jsonl.gz`` for the records that Matbench Discovery compares geometries by.
        statuses: of the crystals that are wanted; by default what can be trusted.
        advance: is told after each block how many rows there were.

    Returns:
        how many crystals are written.

    Raises:
        OutputError: the folder holds no screening, or is damaged; a status is unknown; or the output cannot be written
            there. What it held before is still there.
        OSError: no space, no permission.
    """
    if unknown := set(statuses) - set(STATUSES):
        raise OutputError(f"unknown status {', '.join(sorted(unknown))}, must be among {', '.join(STATUSES)}")
    results = Folder(Path(folder))
    manifest = results.manifest()
    _refuse_overwriting(Path(output), [*results.files(), *_inputs(manifest)])
    if missing := results.missing():
        shards = "" if manifest.shards == 1 else f" (shard {', '.join(map(str, missing))})"
        left = f"{missing.total():,} of {manifest.structures:,} crystals are not done yet{shards}"
        warnings.warn(f"{left}, and not exported", stacklevel=2)
    wanted = _wanted(results, statuses, advance or (lambda rows: None))
    if output.endswith(_LINES):
        return _write_lines(wanted, Path(output))
    file_format = check_output(output, inputs=[], several=manifest.structures > 1)
    written = 0
    with open_sink(output, file_format, whole=True) as sink:
        for table in wanted:
            for atoms in atoms_of(table):
                sink.write(atoms)
                written += 1
    return written


def _inputs(manifest: Manifest) -> Iterator[Path]:
    """Files that were screened, as far as they are still there."""
    for item in manifest.inputs:
        with suppress(StructureFileError):
            yield from (file.path for file in open_source(item["name"]).files)


def _refuse_overwriting(output: Path, files: list[Path]) -> None:
    if output.exists() and any(file.exists() and output.samefile(file) for file in files):
        raise OutputError(f"{output} belongs to the screening, or is its input. Give another name.")


def _wanted(results: Folder, statuses: Collection[str], advance: Callable[[int], None]) -> Iterator[pa.Table]:
    for table in results.tables():
        yield table.filter(pc.is_in(table.column("status"), pa.array(sorted(statuses))))
        advance(len(table))


def _write_lines(tables: Iterator[pa.Table], output: Path) -> int:
    """Records of ``material_id``, ``{model}_structure`` in pymatgen's form, and ``{model}_energy`` if it is known."""
    opener, written = gzip.open if output.name.endswith(".gz") else open, 0
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f".part-{output.name}")
    try:
        with opener(part, "wt", encoding="utf-8") as stream:
            for record in chain.from_iterable(map(_records, tables)):
                stream.write(json.dumps(record) + "\n")
                written += 1
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
    return written


def _records(table: pa.Table) -> Iterator[dict[str, Any]]:
    names = zip(*(table.column(name).to_pylist() for name in ("id", "model", "energy")), strict=True)
    for crystal, (name, model, energy) in zip(crystals_of(table), names, strict=True):
        if crystal is None:
            continue
        record = {"material_id": name, f"{model}_structure": crystal.to_structure().as_dict()}
        if energy is not None and np.isfinite(energy):
            record[f"{model}_energy"] = energy
        yield record


def repeated_ids(folder: str | os.PathLike) -> dict[str, int]:
    """Ids that more than one row has, and how many; rows themselves are told apart by ``index``."""
    tables = list(Folder(Path(folder)).tables(["id"]))
    if not tables:
        return {}
    counts = pa.concat_tables(tables).group_by("id").aggregate([("id", "count")])
    repeated = counts.filter(pc.greater(counts.column("id_count"), 1))
    return dict(zip(repeated.column("id").to_pylist(), repeated.column("id_count").to_pylist(), strict=True))
