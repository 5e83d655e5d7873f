"""The page and the figures of what became of many crystals."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("plotly")
pytest.importorskip("pyarrow")

from ase.build import bulk
from ase.io import read, write

from deeprelax_ase import Predictor
from deeprelax_ase.errors import OutputError, StructureFileError
from deeprelax_ase.io import open_sink
from deeprelax_ase.report import outcome_of, write_report
from deeprelax_ase.report.charts import SHARES, coverage, coverages, curve
from deeprelax_ase.report.pairs import pairs_of
from deeprelax_ase.report.results import RelaxedFile
from deeprelax_ase.report.static import write_figures
from deeprelax_ase.report.views import before_and_after
from deeprelax_ase.screening.manifest import Shard
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.run import screen

#: A name that a page must not take for markup.
EVIL = '<script>alert("x")</script>'


@pytest.fixture(scope="module")
def screened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four crystals, of which one cannot be relaxed, and what their relaxed forms shall be."""
    folder = tmp_path_factory.mktemp("report")
    given = [bulk("MgO", "rocksalt", a=4.5), bulk("NaCl", "rocksalt", a=5.2), bulk("ZnS", "wurtzite", a=4.0, c=6.6)]
    given[2].rattle(0.05, seed=0)
    broken = bulk("GaAs", "zincblende", a=5.6)
    broken.positions[1] = broken.positions[0]
    given.append(broken)
    for n, atoms in enumerate(given):
        atoms.info["id"] = f"{EVIL}-{n}"
    write(folder / "given.extxyz", given)
    screen([folder / "given.extxyz"], folder / "out", RelaxOptions(device="cpu", recycles=1, members=1), workers=0)
    relaxed = [atoms.copy() for atoms in given]
    relaxed[2].positions += np.random.default_rng(0).normal(0, 0.02, relaxed[2].positions.shape)
    write(folder / "true.extxyz", relaxed)
    return folder


@pytest.fixture(scope="module")
def page(screened: Path) -> Path:
    file = screened / "page.html"
    write_report(screened / "out", file, reference=screened / "true.extxyz", show=6, device="cpu")
    return file


class Tags(HTMLParser):
    """What a page loads, and the text outside of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.text, self.scripts, self._inside = "", 0, ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self._inside = tag
        self.scripts += tag == "script"
        self.loads += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += data


def test_what_is_told(screened: Path) -> None:
    outcome = outcome_of(screened / "out", reference=screened / "true.extxyz")
    assert len(outcome) == 4
    assert outcome.statuses == {"accepted": 3, "refused": 1}
    (reason,) = outcome.reasons
    assert "apart" in reason
    assert outcome.failures[0][:2] == (3, f"{EVIL}-3")
    assert outcome.models == {"DeepRelax-PBE": 3}
    assert np.isnan(outcome.true_errors).tolist() == [False, False, False, True]
    assert outcome.true_errors[:2] == pytest.approx(0, abs=1e-6)  # symmetry holds these atoms
    assert outcome.true_errors[2] > 0.01
    places = [place for place, _ in outcome.to_show(4)]
    assert places[0] == 3
    assert sorted(places) == [0, 1, 2, 3]


def test_the_page_holds_all_and_loads_nothing(page: Path) -> None:
    tags = Tags(page.read_text(encoding="utf-8"))
    assert not tags.loads
    assert page.stat().st_size < 15e6
    for told in ("4crystals", "1refused", "are … Å apart", "MgO", "true error"):
        assert told in tags.text.replace("\n", "")


def test_names_are_text(page: Path) -> None:
    content = page.read_text(encoding="utf-8")
    assert EVIL not in content
    assert EVIL in Tags(content).text
    figures = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', content, re.DOTALL)
    assert figures
    assert not any("<" in figure for figure in figures)


def test_a_screening_that_is_not_done_has_gaps(screened: Path, tmp_path: Path) -> None:
    options = RelaxOptions(device="cpu", recycles=1, members=1)
    screen([screened / "given.extxyz"], tmp_path / "o", options, shard=Shard(2, 2), workers=0, block_size=1)
    outcome = write_report(tmp_path / "o", tmp_path / "p.html", reference=screened / "true.extxyz", device="cpu")
    assert outcome.index.tolist() == [1, 3]
    assert outcome.failures[0][0] == 3
    assert outcome.true_errors[0] == pytest.approx(0, abs=1e-6)
    text = Tags((tmp_path / "p.html").read_text(encoding="utf-8")).text
    assert "NaCl" in text
    assert "MgO" not in text


def test_figures_for_papers(screened: Path, tmp_path: Path) -> None:
    outcome = outcome_of(screened / "out", reference=screened / "true.extxyz")
    outcome.numbers["error"] = outcome.numbers["uncertainty"]  # as of models with calibrated errors
    prediction = Predictor(device="cpu", recycles=1, members=1).predict(read(screened / "given.extxyz", index=2))
    files = write_figures(outcome, {2: prediction}, tmp_path / "f")
    assert set(files) == set((tmp_path / "f").iterdir())
    names = {file.name for file in files}
    assert {"error-against-expected.png", "error-against-expected.svg", "volume-change.svg", "crystal-2.png"} <= names
    assert {"coverage.svg", "crystal-2.svg"} <= names
    assert all(file.stat().st_size > 1000 for file in files)


def test_a_file_and_where_it_began(screened: Path, tmp_path: Path) -> None:
    given = read(screened / "given.extxyz", index=":3")
    predictor = Predictor(device="cpu", recycles=1, members=1)
    relaxed = [predictor.predict(atoms).to_atoms(atoms) for atoms in given]
    write(tmp_path / "relaxed.extxyz", relaxed)
    outcome = write_report(
        tmp_path / "relaxed.extxyz", tmp_path / "p.html", initial=f"{screened}/given.extxyz@:3", show=1, device="cpu"
    )
    assert outcome.statuses == {"accepted": 3}
    changes = [b.get_volume() / a.get_volume() - 1 for a, b in zip(given, relaxed, strict=True)]
    np.testing.assert_allclose(outcome.numbers["volume_change"], changes, atol=1e-6)
    assert "Both views have one scale and turn together" in Tags((tmp_path / "p.html").read_text(encoding="utf-8")).text


def test_a_part_of_a_database(screened: Path, tmp_path: Path) -> None:
    """The keys of a database tell what became of its crystals, as the info of other files does."""
    given = read(screened / "given.extxyz", index=":3")
    predictor = Predictor(device="cpu", recycles=1, members=1)
    with open_sink(str(tmp_path / "relaxed.db"), "db") as sink:
        for atoms in given:
            sink.write(predictor.predict(atoms).to_atoms(atoms))
    outcome = outcome_of(tmp_path / "relaxed.db@1:")
    assert outcome.statuses == {"accepted": 2}
    assert np.isfinite(outcome.numbers["uncertainty"]).all()


def test_a_part_of_a_screening(screened: Path, tmp_path: Path) -> None:
    """Its crystals keep their places; a reference without names holds one for each of the part."""
    true = read(screened / "true.extxyz", index=":")
    for atoms in true:
        del atoms.info["id"]
    write(tmp_path / "true.extxyz", true)
    part, reference = f"{screened / 'out'}@2:", f"{tmp_path / 'true.extxyz'}@2:"
    outcome = write_report(part, tmp_path / "p.html", reference=reference, device="cpu")
    assert outcome.index.tolist() == [2, 3]
    assert outcome.statuses == {"accepted": 1, "refused": 1}
    assert outcome.true_errors[0] > 0.01
    assert "Not done yet" not in Tags((tmp_path / "p.html").read_text(encoding="utf-8")).text
    assert outcome_of(f"{screened / 'out'}@-1").statuses == {"refused": 1}
    with pytest.raises(StructureFileError, match=r"out@9: there is none such among its 4\. Check .* index"):
        outcome_of(f"{screened / 'out'}@9")


def test_only_what_is_looked_at_is_read(tmp_path: Path) -> None:
    """A damaged frame that nobody asks for costs nothing."""
    atoms = bulk("MgO", "rocksalt", a=4.2)
    write(tmp_path / "relaxed.extxyz", [atoms] * 3)
    lines = (tmp_path / "relaxed.extxyz").read_text(encoding="utf-8").splitlines()
    (tmp_path / "given.extxyz").write_text("\n".join([*lines[:4], *lines[4:7], "X what", *lines[8:]]) + "\n", "utf-8")
    results = outcome_of(tmp_path / "relaxed.extxyz").results
    assert [row for rows in results.rows({0, 2}) for row in rows.index] == [0, 2]
    both = RelaxedFile(str(tmp_path / "relaxed.extxyz"), str(tmp_path / "given.extxyz"))
    assert [row for rows in both.rows({0, 2}) for row in rows.index] == [0, 2]
    assert [place for place, crystal in both.unrelaxed({0, 2}) if crystal is not None] == [0, 2]
    with pytest.raises(StructureFileError, match=r"given\.extxyz@1 cannot be read"):
        list(both.rows())


def test_without_the_unrelaxed_crystals_nothing_is_drawn(screened: Path, tmp_path: Path) -> None:
    write(tmp_path / "relaxed.extxyz", read(screened / "given.extxyz", index=":2"))
    write_report(tmp_path / "relaxed.extxyz", tmp_path / "p.html", device="cpu")
    assert "--initial" in Tags((tmp_path / "p.html").read_text(encoding="utf-8")).text


def test_wrong_input(screened: Path, tmp_path: Path) -> None:
    with pytest.raises(StructureFileError, match="no such file"):
        outcome_of(tmp_path / "nothing")
    with pytest.raises(OutputError, match="no screening"):
        outcome_of(tmp_path)
    with pytest.raises(StructureFileError, match="no such file"):
        outcome_of(screened / "out", reference=tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("no structures")
    with pytest.raises(StructureFileError, match="Give what deeprelax screen or relax wrote"):
        outcome_of(tmp_path / "notes.txt")
    with pytest.raises(StructureFileError, match="different numbers"):
        outcome_of(screened / "true.extxyz", initial=_first(screened, 2, tmp_path))
    write(tmp_path / "more.extxyz", [*read(screened / "true.extxyz", index=":"), bulk("Cu")])
    with pytest.raises(StructureFileError, match="5 crystals instead of 4"):
        outcome_of(screened / "out", reference=tmp_path / "more.extxyz")
    write(tmp_path / "others.extxyz", [bulk("CaO", "rocksalt", a=4.8)] * 4)
    with pytest.raises(StructureFileError, match="other atoms"):
        outcome_of(screened / "out", reference=tmp_path / "others.extxyz")
    assert not list(tmp_path.glob("*.html*"))


def _first(screened: Path, number: int, folder: Path) -> Path:
    write(folder / "some.extxyz", read(screened / "true.extxyz", index=f":{number}"))
    return folder / "some.extxyz"


def test_bonds_and_arrows_are_where_the_atoms_are() -> None:
    atoms = bulk("ZnS", "wurtzite", a=4.0, c=6.6)
    atoms.rattle(0.1, seed=1)
    atoms.positions[0] += atoms.cell[0] - 2 * atoms.cell[2]  # an atom in another cell is drawn in the first
    prediction = Predictor(device="cpu", recycles=1, members=1).predict(atoms)
    figure, longer = before_and_after(prediction.initial, prediction.relaxed, prediction.uncertainty)
    traces = {(trace.scene, trace.name): trace for trace in figure.data}
    moves = traces["scene", "moves"]
    ends = np.array([moves.x[1::3], moves.y[1::3], moves.z[1::3]]).T
    starts = np.array([moves.x[::3], moves.y[::3], moves.z[::3]]).T
    np.testing.assert_allclose(ends - starts, prediction.displacements * longer, atol=1e-9)
    fractional = np.linalg.solve(prediction.initial.cell.T, starts.T).T
    assert (fractional > -0.01).all()
    assert (fractional < 1).all()
    bonds = traces["scene2", "bonds"]
    lengths = np.linalg.norm(
        np.array([bonds.x[1::3], bonds.y[1::3], bonds.z[1::3]]) - np.array([bonds.x[::3], bonds.y[::3], bonds.z[::3]]),
        axis=0,
    )
    assert 2.0 < lengths.min() < 2.6  # Zn-S
    assert lengths.max() < 3.0
    assert len(bonds.line.color) == 3 * len(lengths)
    assert _holds_an_atom(figure, "scene2", bonds)


def _holds_an_atom(figure, scene: str, bonds) -> bool:
    """Whether each bond ends at an atom, of the crystal or a copy."""
    drawn = [t for t in figure.data if t.scene == scene and t.name in ("atoms", "copies")]
    atoms = np.concatenate([np.array([t.x, t.y, t.z]).T for t in drawn])
    ends = np.array([bonds.x, bonds.y, bonds.z]).T.reshape(-1, 3, 3)[:, :2].reshape(-1, 3)
    distances = np.linalg.norm(ends[:, None] - atoms, axis=2)
    return bool((distances.min(axis=1) < 1e-3).all())


def test_what_was_stored_is_drawn_and_not_what_would_be_predicted_now(screened: Path, tmp_path: Path) -> None:
    options = RelaxOptions(device="cpu", recycles=1, members=1, keep_symmetry=False)
    screen([screened / "given.extxyz"], tmp_path / "o", options, workers=0)
    outcome = write_report(tmp_path / "o", tmp_path / "p.html", device="cpu")
    pairs, missing = pairs_of(outcome.results, {0, 2, 3})
    assert not missing
    for place, atoms in zip((0, 2), read(screened / "given.extxyz", index="0:3:2"), strict=True):
        again = Predictor(device="cpu", recycles=1, members=1, keep_symmetry=False).predict(atoms)
        np.testing.assert_allclose(pairs[place].relaxed.positions, again.relaxed.positions, atol=1e-4)
        np.testing.assert_allclose(pairs[place].displacements, again.displacements, atol=1e-4)
    assert pairs[3].relaxed is None
    assert len(pairs[3].initial) == 2
    assert "from where they are predicted" not in Tags((tmp_path / "p.html").read_text(encoding="utf-8")).text
    assert len(outcome.displacements) == 3


def test_a_file_in_which_atoms_were_moved_on_says_so(screened: Path, tmp_path: Path) -> None:
    given = read(screened / "given.extxyz", index=":1")
    relaxed = Predictor(device="cpu").predict(given[0]).to_atoms(given[0])
    relaxed.positions[1] += 0.3
    relaxed.positions[1] += relaxed.cell[0]  # in another image, as formats that wrap would have it
    write(tmp_path / "relaxed.extxyz", relaxed)
    write(tmp_path / "given.extxyz", given)
    outcome = write_report(
        tmp_path / "relaxed.extxyz", tmp_path / "p.html", initial=tmp_path / "given.extxyz", device="cpu"
    )
    assert outcome.displacements == pytest.approx([0.3 * 3**0.5 / 2**0.5], abs=0.01)
    assert "Atoms are up to 0.30 Å from where they are predicted" in Tags((tmp_path / "p.html").read_text("utf-8")).text


def test_inputs_that_moved_or_changed(screened: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "given.extxyz"
    shutil.copy(screened / "given.extxyz", copy)
    monkeypatch.chdir(tmp_path)
    screen(["given.extxyz"], "out", RelaxOptions(device="cpu", recycles=1, members=1), workers=0)
    monkeypatch.chdir(screened)  # elsewhere, where a file of that name is not ...
    results = outcome_of(tmp_path / "out").results
    assert pairs_of(results, {0})[1] == ""  # ... it is beside the folder
    atoms = read(copy, index=":")
    atoms[0].rattle(0.2)
    write(copy, atoms)
    monkeypatch.chdir(tmp_path)
    pairs, missing = pairs_of(outcome_of("out").results, {0})
    assert pairs[0].initial is None
    assert "has changed since" in missing
    copy.unlink()
    write_report("out", "p.html", device="cpu")
    assert "is not there any more. Say where with --initial." in Tags(Path("p.html").read_text("utf-8")).text
    assert not pairs_of(outcome_of("out", initial=screened / "given.extxyz").results, {0})[1]
    with pytest.raises(StructureFileError, match="holds 2 structures"):
        list(outcome_of("out", initial=_first(screened, 2, tmp_path)).results.unrelaxed({0}))


def test_a_reference_of_some_is_found_by_names(screened: Path, tmp_path: Path) -> None:
    true = read(screened / "true.extxyz", index=":")
    write(tmp_path / "some.extxyz", [true[2], true[0]])
    errors = outcome_of(screened / "out", reference=tmp_path / "some.extxyz").true_errors
    assert np.isnan(errors).tolist() == [False, True, False, True]
    whole = outcome_of(screened / "out", reference=screened / "true.extxyz").true_errors
    np.testing.assert_array_equal(errors[[0, 2]], whole[[0, 2]])


def test_a_damaged_folder(screened: Path, tmp_path: Path) -> None:
    shutil.copytree(screened / "out", tmp_path / "out")
    (file,) = (tmp_path / "out").glob("part-*.parquet")
    content = bytearray(file.read_bytes())
    content[8 : len(content) // 3] = bytes(len(content) // 3 - 8)
    file.write_bytes(content)  # of the same length
    with pytest.raises(OutputError, match="damaged"):
        outcome_of(tmp_path / "out")
    (tmp_path / "out" / "journal.jsonl").write_text("")
    with pytest.raises(StructureFileError, match="nothing of it is done"):
        outcome_of(tmp_path / "out")


def test_curve_and_coverage(screened: Path) -> None:
    generator = np.random.default_rng(0)
    expected = generator.uniform(0.01, 0.5, 3000)
    points = curve(expected, expected * generator.exponential(1.0, 3000))
    np.testing.assert_allclose(points[:, 1], points[:, 0], rtol=0.3)
    assert (np.diff(points[:, 0]) > 0).all()
    np.testing.assert_allclose(coverages(expected, expected * generator.exponential(1.0, 3000)), SHARES, atol=0.03)
    outcome = outcome_of(screened / "out", reference=screened / "true.extxyz")
    outcome.numbers["error_bound"] = outcome.true_errors + np.array([0.1, 0.1, -0.001, 0.1])
    assert coverage(outcome) == pytest.approx(2 / 3)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="Debian's chromium is not installed")
def test_a_browser_draws_it_without_a_network(page: Path, tmp_path: Path) -> None:
    options = ["--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=15000", "--enable-logging=stderr"]
    options += [f"--user-data-dir={tmp_path}", "--dump-dom"]
    shown = subprocess.run(
        ["chromium", *options, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    charts, views = (len(re.findall(f'class="{kind} js-plotly-plot', shown.stdout)) for kind in ("plot", "view"))
    assert charts == 5
    assert views == 1  # the others are drawn when they are opened
    assert "<canvas" in shown.stdout
    assert not [line for line in shown.stderr.splitlines() if "CONSOLE" in line and "rror" in line]
