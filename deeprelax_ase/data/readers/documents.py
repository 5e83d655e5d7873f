"""Relaxation documents of jobflow and atomate2, as JSON: the structure that went in and the one that came out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deeprelax_ase.data.readers.raw import DataError, RawPair, Refused, raw_pair
from deeprelax_ase.errors import SourceError
from deeprelax_ase.io.documents import atoms_of
from deeprelax_ase.io.files import File, reachable

ENDINGS = (".json", ".json.gz", ".jsonl", ".jsonl.gz")

#: Keys that name a document.
_NAMES = ("task_id", "material_id", "uuid", "name", "dir_name")


def is_documents(path: Path) -> bool:
    """Whether ``path`` is a JSON file, or a folder of nothing else."""
    if path.is_dir():
        files = [file for file in path.iterdir() if file.is_file()]
        return bool(files) and all(file.name.endswith(ENDINGS) for file in files)
    return path.name.endswith(ENDINGS)


def read_documents(path: Path, key: str | None) -> Iterator[RawPair | Refused]:
    """A pair of each document: a list of them, JSON lines, or a file for each.

    Raises:
        SourceError: the system does not let a file be read.
    """
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    for file in files:
        for number, document in enumerate(_load(file)):
            name = f"{file.name}[{number}]"
            yield Refused(file.name, str(document)) if isinstance(document, DataError) else _pair(document, name, key)


def _load(file: Path) -> list[Any]:
    """Documents, or the errors in place of those that cannot be read."""
    try:
        with reachable(str(file)), File.on_disk(file).open() as stream:
            text = stream.read().decode()
    except SourceError:
        raise
    except Exception as error:  # whatever unpacking raises
        return [DataError(f"{file} cannot be read: {error}")]
    if ".jsonl" in file.name:
        return [_parsed(line, file) for line in text.splitlines() if line.strip()]
    content = _parsed(text, file)
    return content if isinstance(content, list) else [content]


def _parsed(text: str, file: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return DataError(f"{file} is not JSON: {error}")


def _pair(document: Any, name: str, key: str | None) -> RawPair | Refused:
    if not isinstance(document, Mapping):
        return Refused(name, f"a document is a JSON object, not a {type(document).__name__}")
    keys = (key,) if key else _NAMES
    name = next((str(document[k]) for k in keys if document.get(k)), name)
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
    """Why a document is no relaxation that came to its end."""
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
    """What a step, an input or an output holds; the documents of atomate2's ASE jobs call it ``mol_or_struct``."""
    return (holder.get("structure") or holder.get("mol_or_struct")) if isinstance(holder, Mapping) else None
