"""Relaxation documents of jobflow and atomate2, as JSON: the structure that went in and the one that came out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deeprelax_ase.data.readers.raw import Counted, RawPair, Refused, raw_pair
from deeprelax_ase.errors import StructureError
from deeprelax_ase.io.documents import atoms_of
from deeprelax_ase.io.files import plain_name
from deeprelax_ase.io.frame import name_in
from deeprelax_ase.io.reading import values_of
from deeprelax_ase.io.source import Source, open_source

ENDINGS = (".json", ".jsonl", ".ndjson")

#: Keys that name a document.
_NAMES = ("task_id", "material_id", "uuid", "name", "dir_name")


def is_documents(path: Path) -> bool:
    """Whether ``path`` is a JSON file, or a folder of nothing else."""
    files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
    return bool(files) and all(plain_name(file.name).endswith(ENDINGS) for file in files)


def read_documents(path: Path, key: str | None) -> Counted:
    """A pair of each document: a list of them, one for each name, JSON lines, or a file for each.

    Raises:
        SourceError: the system does not let a file be read.
        StructureFileError: ``path``, or its index, is not understood.
    """
    source = open_source(path)
    return Counted(_pairs(source, key), source.count())


def _pairs(source: Source, key: str | None) -> Iterator[RawPair | Refused]:
    for ref in source.refs():
        try:
            document = values_of(ref)
        except StructureError as error:
            yield Refused(Path(ref.source).name, str(error))
        else:
            yield _pair(document, name_in(document, key, _NAMES) or Path(ref.source).name)


def _pair(document: Mapping[str, Any], name: str) -> RawPair | Refused:
    inner = document.get("output")
    task = inner if isinstance(inner, Mapping) and "output" in inner else document  # jobflow keeps the document inside
    if unfinished := _unfinished(task):
        return Refused(name, unfinished)
    try:
        first, last = _first(task), _last(task)
    except Exception as error:  # whatever lies where something else is looked for
        return Refused(name, f"it is no document of a relaxation: {type(error).__name__}: {error}")
    if first is None or last is None:
        side = "initial" if first is None else "final"
        return Refused(name, f"the document has no {side} structure; a relaxation document of atomate2 is needed")
    try:
        initial, relaxed = atoms_of(first), atoms_of(last)
    except Exception as error:  # whatever pymatgen makes of them
        return Refused(name, f"its structures cannot be read: {type(error).__name__}: {error}")
    return raw_pair(name, initial, relaxed, in_order=True)


def _unfinished(task: Mapping) -> str | None:
    """Return the reason why a document is not a finished relaxation; None where it is one."""
    kind = str(task.get("task_type") or "")
    if kind and not any(word in kind.lower() for word in ("optimization", "relax")):
        return f"it is no relaxation, its task_type is {kind!r}"
    state = str(task.get("state") or "")
    if state.lower() in ("failed", "error", "unsuccessful"):
        return f"the relaxation did not come to its end, its state is {state!r}"
    if task.get("is_force_converged") is False:
        return "the relaxation did not converge, is_force_converged is false"
    return None


def _first(task: Mapping) -> Any:
    """The structure that went in: of the first ionic step of the first calculation where that is kept."""
    calculations = task.get("calcs_reversed")
    earliest = calculations[-1] if isinstance(calculations, list) and calculations else {}
    for holder in (earliest, task):  # VASP's documents have the steps in each calculation, those of ASE in the output
        output = holder.get("output") if isinstance(holder, Mapping) else None
        steps = output.get("ionic_steps") if isinstance(output, Mapping) else None
        if steps and isinstance(steps, list) and (structure := _structure(steps[0])):
            return structure
    return _structure(task.get("input")) or task.get("initial_structure")


def _last(task: Mapping) -> Any:
    return _structure(task.get("output")) or task.get("structure") or task.get("final_structure")


def _structure(holder: Any) -> Any:
    """Return the structure of a step, an input or an output; atomate2's ASE jobs call it ``mol_or_struct``."""
    return (holder.get("structure") or holder.get("mol_or_struct")) if isinstance(holder, Mapping) else None
