"""Relaxation documents of jobflow and atomate2, as JSON: the structure that went in and the one that came out."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deeprelax_ase.data.readers.raw import DataError, RawPair, Refused, raw_pair

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
        DataError: a file is not JSON.
    """
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        for number, document in enumerate(_load(file)):
            yield _pair(document, f"{file.name}[{number}]", key)


def _load(file: Path) -> list[Any]:
    opener = gzip.open if file.name.endswith(".gz") else open
    try:
        with opener(file, "rt", encoding="utf-8") as stream:
            text = stream.read()
        if ".jsonl" in file.name:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        content = json.loads(text)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, EOFError) as error:
        raise DataError(f"{file} is not JSON: {error}") from error
    return content if isinstance(content, list) else [content]


def _pair(document: Any, name: str, key: str | None) -> RawPair | Refused:
    if not isinstance(document, Mapping):
        return Refused(name, f"a document is a JSON object, not a {type(document).__name__}")
    keys = (key,) if key else _NAMES
    name = next((str(document[k]) for k in keys if document.get(k)), name)
    inner = document.get("output")
    task = inner if isinstance(inner, Mapping) and "output" in inner else document  # jobflow keeps the document inside
    first = _first(task)
    last = _last(task)
    if first is None or last is None:
        side = "initial" if first is None else "final"
        return Refused(name, f"the document has no {side} structure; a relaxation document of atomate2 is needed")
    from pymatgen.core import Structure

    try:
        structures = [s if isinstance(s, Structure) else Structure.from_dict(dict(s)) for s in (first, last)]
    except (KeyError, ValueError, TypeError) as error:
        return Refused(name, f"its structures cannot be read: {type(error).__name__}: {error}")
    return raw_pair(name, *structures)


def _first(task: Mapping) -> Any:
    """The structure that went in: of the first calculation's first ionic step where that is kept."""
    calculations = task.get("calcs_reversed") or []
    if calculations and isinstance(calculations[-1], Mapping):
        steps = (calculations[-1].get("output") or {}).get("ionic_steps") or []
        if steps and isinstance(steps[0], Mapping) and steps[0].get("structure"):
            return steps[0]["structure"]
    steps = (task.get("output") or {}).get("ionic_steps") or [] if isinstance(task.get("output"), Mapping) else []
    if steps and isinstance(steps[0], Mapping) and steps[0].get("structure"):
        return steps[0]["structure"]
    given = task.get("input")
    return given.get("structure") if isinstance(given, Mapping) else task.get("initial_structure")


def _last(task: Mapping) -> Any:
    output = task.get("output")
    if isinstance(output, Mapping) and output.get("structure"):
        return output["structure"]
    return task.get("structure") or task.get("final_structure")
