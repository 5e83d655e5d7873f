"""Hostile files: each structure of theirs is read or told to be unreadable, and nothing else happens."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deeprelax_ase.errors import DeepRelaxError
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
