"""The results of a screening in the files that other programs read."""

from __future__ import annotations

import gzip
import json
import os
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deeprelax_ase.errors import OutputError, StructureFileError
from deeprelax_ase.io.output import check_output, check_place
from deeprelax_ase.io.placing import placed
from deeprelax_ase.io.sink import open_sink
from deeprelax_ase.io.source import open_source
from deeprelax_ase.prediction.status import CONVERGED, STATUSES, TRUSTED
from deeprelax_ase.screening.folder import Folder
from deeprelax_ase.screening.rows import atoms_of, crystals_of

if TYPE_CHECKING:
    from deeprelax_ase.crystal import Crystal
    from deeprelax_ase.io.source import Source
    from deeprelax_ase.screening.manifest import Manifest

_LINES = (".jsonl", ".jsonl.gz")

#: What a record of these tells.
_TOLD = ["id", "status", "energy", "steps"]


def export_results(
    folder: str | os.PathLike,
    output: str,
    *,
    statuses: Collection[str] = TRUSTED,
    overwrite: bool = False,
    advance: Callable[[int], None] | None = None,
) -> int:
    """Write the crystals of a screening, in the order of the inputs; a warning says if some are not done yet.

    Args:
        folder: of the screening.
        output: file, in the format of its ending: any that ASE writes, ``name-%06d.cif`` for a file for each crystal,
            or ``.jsonl`` and ``.jsonl.gz`` for records as Matbench Discovery 1.3.1 reads them: ``material_id``,
            ``structure`` in pymatgen's form, ``energy``, ``converged`` and ``n_steps``. Energies are those of a finish
            (eV), by which it ranks; predicted ones, of another potential, are left out. So nothing is converged
            without a calculator.
        statuses: of the crystals that are wanted; by default what can be trusted.
        overwrite: whether a file of before is replaced, once all is written.
        advance: is told after each block how many rows there were.

    Returns:
        the number of crystals that are written.

    Raises:
        OutputError: the folder holds no screening, or is damaged; a status is unknown; or the output cannot be written
            there. What it held before is still there.
        OSError: no space, no permission.
    """
    if unknown := set(statuses) - set(STATUSES):
        raise OutputError(f"unknown status {', '.join(sorted(unknown))}, must be among {', '.join(STATUSES)}")
    results, path = Folder(Path(folder)), Path(output)
    manifest = results.manifest()
    if results.keeps(path):
        raise OutputError(f"{output} belongs to the screening. Give another name.")
    if results.path.resolve() in path.resolve().parents:
        beside = Path(os.path.relpath(results.path.resolve().parent), path.name)
        raise OutputError(f"{output} lies in the folder of the screening, which is its own. Give {beside}.")
    inputs, file_format = list(_inputs(manifest)), ""
    if output.endswith(_LINES):
        check_place(path, inputs=inputs, overwrite=overwrite)
    else:
        file_format = check_output(output, inputs=inputs, several=manifest.structures > 1, overwrite=overwrite)
    if missing := results.missing():
        shards = "" if manifest.shards == 1 else f" (shard {', '.join(map(str, missing))})"
        left = f"{missing.total():,} of {manifest.structures:,} crystals are not done yet{shards}"
        warnings.warn(f"{left}, and not exported", stacklevel=2)
    wanted = _wanted(results, statuses, advance or (lambda rows: None))
    tally = _Tally()
    if file_format:
        with open_sink(output, file_format, whole=True, overwrite=overwrite) as sink:
            for atoms in chain.from_iterable(map(atoms_of, wanted)):
                with tally.counted(atoms.info["id"]):
                    sink.write(atoms)
    else:
        _write_lines(wanted, path, overwrite, tally)
    if tally.lost:
        warnings.warn(f"{tally.lost:,} crystals cannot be written in this format: {tally.first}, ...", stacklevel=2)
    return tally.written


@dataclass
class _Tally:
    """Count of the crystals that are written, and of those that cannot be, with the first of these and the reason."""

    written: int = 0
    lost: int = 0
    first: str = ""

    @contextmanager
    def counted(self, name: str) -> Iterator[None]:
        """Counts a crystal; one that cannot be written costs itself."""
        try:
            yield
            self.written += 1
        except (OSError, OutputError):
            raise
        except Exception as error:  # whatever the formats raise
            self.lost += 1
            self.first = self.first or f"{name} ({type(error).__name__}: {error})"


def _inputs(manifest: Manifest) -> Iterator[Source]:
    """Open the inputs of the screening, as far as they are still there."""
    for item in manifest.inputs:
        with suppress(StructureFileError):
            yield open_source(item["name"])


def _wanted(results: Folder, statuses: Collection[str], advance: Callable[[int], None]) -> Iterator[pa.Table]:
    for table in results.tables():
        yield table.filter(pc.is_in(table.column("status"), pa.array(sorted(statuses))))
        advance(len(table))


def _write_lines(tables: Iterator[pa.Table], output: Path, overwrite: bool, tally: _Tally) -> None:
    opener = gzip.open if output.name.endswith(".gz") else open
    with placed(output, replace=overwrite) as part, opener(part, "wt", encoding="utf-8") as stream:
        for table in tables:
            rows = table.select(_TOLD).to_pylist()
            for crystal, row in zip(crystals_of(table), rows, strict=True):
                if crystal is not None:
                    with tally.counted(row["id"]):
                        stream.write(json.dumps(_record(crystal, row)) + "\n")


def _record(crystal: Crystal, row: dict[str, Any]) -> dict[str, Any]:
    """The columns that Matbench Discovery 1.3.1 reads, a structure in pymatgen's form among them."""
    energy = row["energy"]
    return {
        "material_id": row["id"],
        "structure": crystal.to_structure().as_dict(),
        "energy": energy if energy is not None and np.isfinite(energy) else None,
        "converged": row["status"] == CONVERGED,
        "n_steps": row["steps"] or 0,
    }


def repeated_ids(folder: str | os.PathLike) -> dict[str, int]:
    """Ids that more than one row has, and how many; rows themselves are told apart by ``index``."""
    tables = list(Folder(Path(folder)).tables(["id"]))
    if not tables:
        return {}
    counts = pa.concat_tables(tables).group_by("id").aggregate([("id", "count")])
    repeated = counts.filter(pc.greater(counts.column("id_count"), 1))
    return dict(zip(repeated.column("id").to_pylist(), repeated.column("id_count").to_pylist(), strict=True))
