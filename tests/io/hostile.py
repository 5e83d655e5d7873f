"""Files that no reader should trust: sound ones of every format, damaged in every way, and some made to do harm."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from ase import Atoms
from ase.build import bulk
from ase.db import connect
from ase.io import write
from pymatgen.io.ase import AseAtomsAdaptor

#: A module that marks its import, and what names it in pymatgen's JSON and in ASE's.
EVIL_MODULE = "deeprelax_hostile_module"
EVIL = {"@module": EVIL_MODULE, "@class": "X"}
EVIL_ASE = {"__ase_objtype__": EVIL_MODULE, "__complex__": [1, 2], "ndarray": [[10**12], "float64", []]}


def crystals() -> list[Atoms]:
    made = [bulk("MgO", "rocksalt", a=4.0 + 0.1 * k) for k in range(3)]
    for number, atoms in enumerate(made):
        atoms.info["material_id"] = f"m{number}"
    return made


def documents() -> list[dict]:
    return [
        {"material_id": f"m{n}", "structure": AseAtomsAdaptor.get_structure(atoms).as_dict()}
        for n, atoms in enumerate(crystals())
    ]


def _lines(path: Path, made: list[dict] | None = None) -> None:
    path.write_text("".join(json.dumps(document) + "\n" for document in made or documents()))


def _parquet(path: Path) -> None:
    rows = [{"id": d["material_id"], "structure": json.dumps(d["structure"])} for d in documents()]
    pq.write_table(pa.Table.from_pylist(rows), path)


def _database(path: Path) -> None:
    with connect(path) as database:
        for number, atoms in enumerate(crystals()):
            database.write(atoms, name=f"m{number}")


def _members(path: Path) -> list[Path]:
    files = []
    for number, atoms in enumerate(crystals()):
        files.append(path.with_name(f"{path.name}-{number}.cif"))
        write(files[-1], atoms)
    return files


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in _members(path):
            archive.write(file, file.name)
            file.unlink()


def _tar(path: Path) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for file in _members(path):
            archive.add(file, file.name)
            file.unlink()


def _packed(pack: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        plain = path.with_suffix("")
        write(plain, crystals())
        path.write_bytes(pack(plain.read_bytes()))
        plain.unlink()

    return make


def _all(path: Path) -> None:
    write(path, crystals())


def _first(path: Path) -> None:
    write(path, crystals()[0], format="res" if path.suffix == ".res" else "xsf" if path.suffix == ".xsf" else "vasp")


#: What makes a sound file of each format, by its name.
SOUND: dict[str, Callable[[Path], None]] = {
    **dict.fromkeys(("a.extxyz", "a.xyz", "a.cif", "a.traj"), _all),
    **dict.fromkeys(("POSCAR", "a.vasp", "a.res", "a.xsf"), _first),
    "a.json": lambda path: path.write_text(json.dumps(documents())) and None,
    "database.json": _database,
    "a.jsonl": _lines,
    "a.parquet": _parquet,
    "a.db": _database,
    "a.zip": _zip,
    "a.tar": _tar,
    "a.tar.gz": _tar,
    "a.extxyz.gz": _packed(gzip.compress),
    "a.cif.bz2": _packed(bz2.compress),
    "a.extxyz.xz": _packed(lzma.compress),
    "a.gen": lambda path: write(path, crystals()[0]),
}


def _cut(share: float) -> Callable[[bytes, random.Random], bytes]:
    return lambda data, rng: data[: int(len(data) * share)]


def _flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(max(1, len(data) // 200)):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _zeroed(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + bytes(len(data[start : start + 64])) + data[start + 64 :]


def _number_replaced(by: bytes) -> Callable[[bytes, random.Random], bytes]:
    def replace(data: bytes, rng: random.Random) -> bytes:
        places = [n for n, byte in enumerate(data) if 48 <= byte <= 57]
        if not places:
            return data
        place = rng.choice(places)
        return data[:place] + by + data[place + 1 :]

    return replace


#: Ways to damage the bytes of a file.
DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "emptied": lambda data, rng: b"",
    "cut to a third": _cut(1 / 3),
    "cut in the middle": _cut(0.5),
    "cut near the end": lambda data, rng: data[:-9],
    "bits flipped": _flipped,
    "zeros inside": _zeroed,
    "a half moved": lambda data, rng: data[len(data) // 2 :] + data[: len(data) // 2],
    "twice in a row": lambda data, rng: data + data,
    "garbage before it": lambda data, rng: b"\x89PNG\r\n\x1a\n" + data,
    "garbage after it": lambda data, rng: data + bytes(rng.randrange(256) for _ in range(99)),
    "not UTF-8": lambda data, rng: data.replace(b"M", b"\xe9\xff"),
    "lines of Windows": lambda data, rng: data.replace(b"\n", b"\r\n"),
    "a mark of byte order": lambda data, rng: b"\xef\xbb\xbf" + data,
    "UTF-16": lambda data, rng: data.decode("latin-1").encode("utf-16"),
    "a number is NaN": _number_replaced(b"nan"),
    "a number is huge": _number_replaced(b"9" * 400),
    "a number is 1e999": _number_replaced(b"1e999"),
    "a number is a word": _number_replaced(b" $(reboot) "),
    "noise": lambda data, rng: bytes(rng.randrange(256) for _ in range(500)),
}


def damaged(path: Path, damage: str, seed: int = 0) -> Path:
    """Make the file ``path``, of a name in :data:`SOUND`, and damage it."""
    path.unlink(missing_ok=True)
    SOUND[path.name](path)
    path.write_bytes(DAMAGES[damage](path.read_bytes(), random.Random(seed)))
    return path


def _zip_of(members: dict[str, bytes]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)

    return make


def _poscar() -> bytes:
    stream = io.StringIO()
    write(stream, crystals()[0], format="vasp")
    return stream.getvalue().encode()


def _links(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name, kind, target in (
            ("passwd.cif", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard.cif", tarfile.LNKTYPE, "/etc/passwd"),
            ("pipe.cif", tarfile.FIFOTYPE, ""),
            ("device.cif", tarfile.CHRTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
        sound = tarfile.TarInfo("POSCAR")
        sound.size = len(_poscar())
        archive.addfile(sound, io.BytesIO(_poscar()))


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "sound.vasp").write_bytes(_poscar())
    (path / "folder.cif").mkdir()
    (path / "loop").symlink_to(path)
    (path / "dangling.cif").symlink_to(path / "nowhere.cif")
    os.mkfifo(path / "pipe.cif")


def _evil_documents() -> list[dict]:
    made = documents()
    made[0]["structure"]["sites"][0]["properties"] = {"magmom": EVIL, "more": EVIL_ASE}
    made[1]["structure"]["properties"] = {"x": EVIL}
    made[1]["other"] = EVIL
    made[2]["structure"]["lattice"]["x"] = EVIL
    return [*made, EVIL, {"structure": EVIL}, {"material_id": EVIL, "structure": made[0]["structure"]}]


def _evil_database(path: Path) -> None:
    with connect(path) as database:
        database.write(crystals()[0], data={"x": EVIL_ASE})


def _text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content) and None


#: What makes files that are to do harm, by their names; some hold a sound structure as well.
HARMFUL: dict[str, Callable[[Path], None]] = {
    "code.json": lambda path: path.write_text(json.dumps(_evil_documents())) and None,
    "code.jsonl": lambda path: _lines(path, _evil_documents()),
    "code.db": _evil_database,
    "code-database.json": _evil_database,
    "deep.json": _text("[" * 100_000),
    "deep-object.json": _text('{"structure":' * 50_000),
    "deep.jsonl": _text('{"structure": ' + "[" * 100_000 + "\n" + json.dumps(documents()[0]) + "\n"),
    "long-number.json": _text('[{"structure": {"lattice": {"matrix": ' + "9" * 10_000 + "}}}]"),
    "wrong-types.json": _text('[1, null, "x", [], {"structure": 3}, {"structure": {"lattice": 1, "sites": "abc"}}]'),
    "ids.json": lambda path: path.write_text(json.dumps({"ids": "x", "nextid": None, "1": []})) and None,
    "count.xyz": _text("999999999\nLattice='1 0 0 0 1 0 0 0 1'\nMg 0 0 0\n"),
    "negative.xyz": _text("-3\nx\nMg 0 0 0\n"),
    "properties.extxyz": _text('1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:999999999\nMg 0 0 0\n'),
    "columns.extxyz": _text('1\nLattice="a b c" Properties=pos:Z:x:species\nMg 0 0 0\n'),
    "long-line.extxyz": _text("1\n" + "x" * 300_000 + "\nMg 0 0 0\n"),
    "loop.cif": _text("data_x\nloop_\n_atom_site_fract_x\n_atom_site_fract_y\n0 0 0\n"),
    "quotes.cif": _text("data_x\n_cell_length_a 'unclosed\n;\nno end\n"),
    "operations.cif": _text(
        "data_x\n_cell_length_a 4\n_cell_length_b 4\n_cell_length_c 4\n_cell_angle_alpha 90\n_cell_angle_beta 90\n"
        "_cell_angle_gamma 90\nloop_\n_symmetry_equiv_pos_as_xyz\n'__import__(\"os\").abort(),y,z'\n"
        "loop_\n_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\nMg 0 0 0\n"
    ),
    "counts.vasp": _text("x\n1\n4 0 0\n0 4 0\n0 0 4\nMg\n10000000\nDirect\n0 0 0\n"),
    "other.parquet": lambda path: pq.write_table(pa.table({"a": [1, 2]}), path),
    "nulls.parquet": lambda path: pq.write_table(pa.table({"structure": pa.array([None, None], pa.string())}), path),
    "lists.parquet": lambda path: pq.write_table(
        pa.table({"numbers": [[12, 8], [12]], "positions": [[0.0] * 5, [0.0] * 3], "cell": [[1.0] * 9, [4.0, 0, 0]]}),
        path,
    ),
    "nothing.db": lambda path: path.write_bytes(b""),
    "names.zip": _zip_of({"../../../evil.cif": b"x", "/etc/evil.cif": b"x", "C:\\evil.cif": b"x", "POSCAR": _poscar()}),
    "nested.zip": _zip_of({"inner.zip": b"PK\x05\x06" + bytes(18), "POSCAR": _poscar()}),
    "bomb.zip": _zip_of({"bomb.cif": bytes(3_000_000), "POSCAR": _poscar()}),
    "links.tar": _links,
    "folder": _folder,
    "name with\nnewline@0.cif": _text("data_x"),
}
