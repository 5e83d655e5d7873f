"""The same crystals in each format."""

from __future__ import annotations

import gzip
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
from ase.db import connect
from ase.io import write
from pymatgen.io.ase import AseAtomsAdaptor

from deeprelax_ase.screening.rows import structures_table
from tests.screening.conftest import some_crystals

NUMBER = 5


def cifs(folder: Path) -> Path:
    folder.mkdir()
    for n, atoms in enumerate(some_crystals(NUMBER)):
        write(folder / f"crystal-{n}.cif", atoms)
    (folder / "README.txt").write_text("not a crystal")
    return folder


def zipped(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(cifs(path.with_suffix("")).iterdir()):
            archive.write(file, file.name)
    return path


def tarred(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(cifs(path.with_suffix("")).iterdir()):
            archive.add(file, file.name)
    return path


def database(path: Path) -> Path:
    with connect(path) as db:
        for atoms in some_crystals(NUMBER):
            db.write(atoms, material_id=atoms.info["material_id"])
    return path


def documents() -> list[dict]:
    return [
        {"material_id": a.info["material_id"], "structure": AseAtomsAdaptor.get_structure(a).as_dict()}
        for a in some_crystals(NUMBER)
    ]


def listed(path: Path) -> Path:
    path.write_bytes(gzip.compress(json.dumps(documents()).encode()))
    return path


def mapped(path: Path) -> Path:
    path.write_text(json.dumps({d["material_id"]: d["structure"] for d in documents()}))
    return path


def lines(path: Path) -> Path:
    renamed = [{"material_id": d["material_id"], "initial_structure": d["structure"]} for d in documents()]
    path.write_text("\n".join(map(json.dumps, renamed)) + "\n")
    return path


def parquet(path: Path) -> Path:
    crystals = some_crystals(NUMBER)
    pq.write_table(structures_table(crystals, ids=[a.info["material_id"] for a in crystals]), path)
    return path


def xyz_file(path: Path) -> Path:
    write(path, some_crystals(NUMBER))
    return path


FORMATS: dict[str, Callable[[Path], Path]] = {
    "set.extxyz": xyz_file,
    "cifs": cifs,
    "set.zip": zipped,
    "set.tar.gz": tarred,
    "set.db": database,
    "set.json.gz": listed,
    "set.json": mapped,
    "set.jsonl": lines,
    "set.parquet": parquet,
    "set.traj": xyz_file,
}
