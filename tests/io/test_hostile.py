"""Hostile files: each structure of theirs is read or told to be unreadable, and nothing else happens."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import re
import sys
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.io import files
from deeprelax_ase.io.frame import Frame
from deeprelax_ase.io.source import open_source, read_frames
from tests.io.hostile import DAMAGES, EVIL_MODULE, HARMFUL, SOUND, damaged

pytestmark = pytest.mark.filterwarnings("ignore")  # readers of other libraries warn as they like


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "loop/" not in str(path))
    return {str(path): path.read_bytes() for path in files}


def frames_of(path: Path) -> list[Frame]:
    """What is read of ``path``, each with atoms or an error of ours; no file comes, goes or changes."""
    before = contents(path.parent)
    frames = list(read_frames(str(path)))
    assert contents(path.parent) == before
    assert frames
    for frame in frames:
        assert (frame.atoms is None) != (frame.error is None)
        assert frame.error is None or (isinstance(frame.error, DeepRelaxError) and str(frame.error))
        (frame.label + frame.name).encode("utf-8")  # whoever logs it can
    return frames


@pytest.mark.parametrize("name", SOUND)
def test_sound_files_are_read(tmp_path, name):
    SOUND[name](tmp_path / name)
    assert all(frame.error is None for frame in frames_of(tmp_path / name))


@pytest.mark.parametrize("name", SOUND)
def test_damaged_files_cost_no_more_than_their_structures(tmp_path, name):
    for damage in DAMAGES:
        path = damaged(tmp_path / name, damage)
        frames = frames_of(path)
        assert open_source(str(path)).count() == len(frames), damage


@pytest.mark.slow
@given(name=st.sampled_from(sorted(SOUND)), damage=st.sampled_from(sorted(DAMAGES)), seed=st.integers(0, 2**32))
@settings(max_examples=3000, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_files_damaged_anywhere(tmp_path_factory, name, damage, seed):
    path = damaged(tmp_path_factory.mktemp("damaged") / name, damage, seed)
    assert open_source(str(path)).count() == len(frames_of(path))


@pytest.mark.parametrize("name", HARMFUL, ids=lambda name: name.replace("\n", " "))
def test_harmful_files_do_no_harm(tmp_path, monkeypatch, name):
    (tmp_path / f"{EVIL_MODULE}.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    HARMFUL[name](tmp_path / name)
    frames_of(tmp_path / name)
    assert EVIL_MODULE not in sys.modules


@pytest.mark.parametrize("name", ["names.zip", "nested.zip", "bomb.zip", "links.tar", "folder", "deep.jsonl"])
def test_what_is_sound_beside_harm_is_read(tmp_path, name):
    HARMFUL[name](tmp_path / name)
    assert [frame.atoms is not None for frame in frames_of(tmp_path / name)].count(True) == 1


def _zipped(path, name, content):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
        archive.writestr("sound.extxyz", XYZ)


def _tarred(path, name, content):
    with tarfile.open(path, "w:gz") as archive:
        for member, data in ((name, content), ("sound.extxyz", XYZ)):
            row = tarfile.TarInfo(member)
            row.size = len(data)
            archive.addfile(row, io.BytesIO(data))


XYZ = b'1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3\nCu 0 0 0\n'
BOMBS = {
    "b.extxyz.gz": lambda path, blank: path.write_bytes(gzip.compress(XYZ + blank)),
    "b.cif.bz2": lambda path, blank: path.write_bytes(bz2.compress(blank)),
    "b.json.xz": lambda path, blank: path.write_bytes(lzma.compress(blank, preset=0)),
    "b.zip": lambda path, blank: _zipped(path, "a.extxyz", blank),
    "packed twice.zip": lambda path, blank: _zipped(path, "a.extxyz.gz", gzip.compress(blank)),
    "b.tar.gz": lambda path, blank: _tarred(path, "a.extxyz", blank),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_unpacks_without_end_is_refused(tmp_path, monkeypatch, name):
    """Within a few times the limit: the memory never sees all of it."""
    monkeypatch.setattr(files, "UNPACKED_AT_LEAST", 2**20)
    BOMBS[name](tmp_path / name, (b" " * 63 + b"\n") * 2**18)
    tracemalloc.start()
    frames = frames_of(tmp_path / name)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert any("unpacks to more than" in str(frame.error) for frame in frames)
    assert most < 2**23
    sound = [frame for frame in frames if frame.error is None]
    assert len(sound) == (0 if name in ("b.cif.bz2", "b.json.xz") else 1)


def test_what_shrinks_as_structures_do_is_read_up_to_a_size(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "UNPACKED_AT_LEAST", 2**10)
    rng = random.Random(3)
    frames = b"".join(XYZ.replace(b"Cu 0", b"Cu %.8f" % rng.random()) for _ in range(500))
    (tmp_path / "a.extxyz.gz").write_bytes(gzip.compress(frames))
    assert len(frames_of(tmp_path / "a.extxyz.gz")) == 500
    _zipped(tmp_path / "a.zip", "a.extxyz", frames)
    monkeypatch.setattr(files, "MOST_BYTES", 2**13)
    for name in ("a.extxyz.gz", "a.zip"):
        (told,) = [str(frame.error) for frame in frames_of(tmp_path / name) if frame.error is not None]
        assert "over what is unpacked of any file" in told


@pytest.mark.parametrize("counts", ["150000000", "99999999999999", "Mg O\n20 150000000 ! comment"])
def test_counts_take_no_memory(tmp_path, counts):
    (tmp_path / "POSCAR").write_text(f"x\n1\n4 0 0\n0 4 0\n0 0 4\n{counts}\nDirect\n0 0 0\n")
    tracemalloc.start()
    (frame,) = frames_of(tmp_path / "POSCAR")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert re.search("it tells of [0-9,]* atoms, and has [0-9]* bytes", str(frame.error))
    assert most < 2**23
