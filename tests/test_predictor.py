"""The whole flow with the weights that ship: its physics, its batches, its errors."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from deeprelax_ase.errors import (
    DeviceError,
    DisorderedStructureError,
    EmptyStructureError,
    IsolatedAtomError,
    MissingCellError,
    ModelError,
    NonFiniteError,
    OverlappingAtomsError,
    PartialPeriodicityError,
    SingularCellError,
    StructureError,
    UnsupportedElementError,
)
from deeprelax_ase.geometry import EDGSettings
from deeprelax_ase.geometry.symmetry import symmetry_operations
from deeprelax_ase.graph import build_graph
from deeprelax_ase.models import DEFAULT_MODEL, Model, ModelCard, load_model
from deeprelax_ase.nn import DeepRelax
from deeprelax_ase.nn.config import ABLATIONS
from deeprelax_ase.prediction import Prediction
from deeprelax_ase.predictor import Predictor
from deeprelax_ase.structure import Crystal


def rotation(seed: int) -> np.ndarray:
    """A random proper rotation."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def rattled(atoms: Atoms, seed: int, *, displacement: float = 0.1, strain: float = 0.02) -> Crystal:
    rng = np.random.default_rng(seed)
    cell = atoms.cell.array @ (np.eye(3) + strain * rng.normal(size=(3, 3)))
    positions = atoms.get_scaled_positions() @ cell + displacement * rng.normal(size=(len(atoms), 3))
    return Crystal(atoms.numbers, positions, cell)


def perovskite(formula: str = "SrTiO3", a: float = 3.95) -> Atoms:
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Atoms(formula, scaled_positions=sites, cell=[a] * 3, pbc=True)


CRYSTALS = {
    "perovskite": Crystal.of(perovskite()),
    "rocksalt": Crystal.of(bulk("NaCl", "rocksalt", a=5.5)),
    "hcp": Crystal.of(bulk("Mg")),
    "wurtzite": Crystal.of(bulk("ZnS", "wurtzite", a=3.8, c=6.2)),
    "rattled perovskite": rattled(perovskite("CaMnO3", 3.8), 1),
    "rattled rocksalt": rattled(bulk("MgO", "rocksalt", a=4.4, cubic=True), 2),
    "triclinic": Crystal(
        [22, 8, 8, 38],
        [[0.1, 0.2, 0.3], [2.1, 0.4, 0.9], [0.3, 2.6, 1.1], [2.0, 2.7, 3.9]],
        [[4.1, 0.0, 0.0], [1.3, 4.7, 0.0], [-0.9, 1.1, 5.6]],
    ),
}
SYMMETRIC = ["perovskite", "rocksalt", "hcp"]
DISTORTED = ["rattled perovskite", "rattled rocksalt", "triclinic"]
every_crystal = pytest.mark.parametrize("crystal", CRYSTALS.values(), ids=CRYSTALS)


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model()


@pytest.fixture(scope="module")
def make(model: Model) -> Callable[..., Predictor]:
    """Predictors on the CPU that share their weights."""
    return lambda **kwargs: Predictor(**{"model": model, "device": "cpu", "graph_backend": "torch", **kwargs})


@pytest.fixture(scope="module", params=[True, False], ids=["symmetry kept", "symmetry free"])
def exact(make, request) -> Predictor:
    return make(dtype="float64", keep_symmetry=request.param)


@pytest.fixture(scope="module")
def predictor(make) -> Predictor:
    return make()


def assert_same(a: Prediction, b: Prediction, *, atol: float, order: np.ndarray | slice = slice(None)) -> None:
    """The same relaxed crystal, and the same uncertainty, with the atoms of ``a`` taken in ``order``."""
    np.testing.assert_allclose(b.relaxed.cell, a.relaxed.cell, rtol=0, atol=atol)
    np.testing.assert_allclose(b.relaxed.positions, a.relaxed.positions[order], rtol=0, atol=atol)
    np.testing.assert_allclose(b.uncertainty.per_atom, a.uncertainty.per_atom[order], rtol=0, atol=atol)
    for name in ("total", "aleatoric", "epistemic"):
        assert getattr(b.uncertainty, name) == pytest.approx(getattr(a.uncertainty, name), rel=0, abs=atol)


def space_group(crystal: Crystal) -> tuple[int, np.ndarray | None]:
    """Number of rotations, and the copies of each atom."""
    operations = symmetry_operations(crystal)
    return (1, None) if operations is None else (len(operations.rotations), operations.copies)


# Physics


def test_the_crystals_below_do_relax(exact: Predictor):
    for name in DISTORTED:
        prediction = exact.predict(CRYSTALS[name])
        assert np.abs(prediction.displacements).max() > 0.01, name
        assert abs(prediction.volume_change) > 0.005, name
        assert prediction.solver_converged, name


@every_crystal
@pytest.mark.parametrize("kind", ["rotation", "reflection"])
def test_turned_input_turns_the_prediction(exact: Predictor, crystal: Crystal, kind: str):
    turn = rotation(3) * (np.array([-1, 1, 1]) if kind == "reflection" else 1)
    assert np.linalg.det(turn) == pytest.approx(-1 if kind == "reflection" else 1)
    still = exact.predict(crystal)
    turned = exact.predict(crystal.with_geometry(crystal.positions @ turn, crystal.cell @ turn))
    expected = replace(still, relaxed=crystal.with_geometry(still.relaxed.positions @ turn, still.relaxed.cell @ turn))
    assert_same(expected, turned, atol=1e-10)


@every_crystal
def test_shifted_input_shifts_the_prediction(exact: Predictor, crystal: Crystal):
    shift = np.array([11.3, -4.7, 8.1])
    still, shifted = (
        exact.predict(crystal),
        exact.predict(crystal.with_geometry(crystal.positions + shift, crystal.cell)),
    )
    np.testing.assert_allclose(shifted.relaxed.cell, still.relaxed.cell, rtol=0, atol=1e-10)
    carried = shift @ np.linalg.inv(crystal.cell) @ still.relaxed.cell  # fractional coordinates are what stays
    np.testing.assert_allclose(shifted.relaxed.positions, still.relaxed.positions + carried, rtol=0, atol=1e-10)


@every_crystal
def test_order_of_atoms_does_not_matter(exact: Predictor, crystal: Crystal):
    order = np.random.default_rng(4).permutation(len(crystal))[::-1]
    permuted = exact.predict(Crystal(crystal.numbers[order], crystal.positions[order], crystal.cell))
    assert_same(exact.predict(crystal), permuted, atol=1e-10, order=order)


def test_physics_on_the_data(exact: Predictor, data_crystals):
    turn = rotation(5) * np.array([1, 1, -1])
    for crystal in data_crystals("universal", [11, 222]) + data_crystals("xmno", [3]):
        order = np.random.default_rng(len(crystal)).permutation(len(crystal))
        moved = Crystal(crystal.numbers[order], crystal.positions[order] @ turn, crystal.cell @ turn)
        still = exact.predict(crystal)
        expected = replace(
            still, relaxed=crystal.with_geometry(still.relaxed.positions @ turn, still.relaxed.cell @ turn)
        )
        assert_same(expected, exact.predict(moved), atol=1e-7, order=order)


def test_supercell_relaxes_as_its_cell(exact: Predictor):
    """Nearly: pairs within the cell are edges at any distance, so a larger cell has more of them."""
    for name, crystal in CRYSTALS.items():
        double = exact.predict(Crystal.of(crystal.to_atoms() * (2, 1, 1)))
        assert double.volume_change == pytest.approx(exact.predict(crystal).volume_change, abs=0.01), name


def test_choice_of_images_matters_little(exact: Predictor):
    """It should not at all; but "within the cell" depends on it, in the graph as published."""
    for name, crystal in CRYSTALS.items():
        jumps = np.random.default_rng(7).integers(-1, 2, size=(len(crystal), 3))
        still = exact.predict(crystal)
        jumped = exact.predict(crystal.with_geometry(crystal.positions + jumps @ crystal.cell, crystal.cell))
        kept = jumped.relaxed.scaled_positions - still.relaxed.scaled_positions
        np.testing.assert_array_equal(np.round(kept), jumps, err_msg=name)
        assert np.abs((kept - jumps) @ still.relaxed.cell).max() < 0.1, name
        assert jumped.volume_change == pytest.approx(still.volume_change, abs=0.02), name


class TestSymmetry:
    @pytest.mark.parametrize("name", SYMMETRIC)
    def test_symmetric_sites_stay(self, predictor: Predictor, name: str):
        crystal = CRYSTALS[name]
        prediction = predictor.predict(crystal)
        np.testing.assert_allclose(prediction.relaxed.scaled_positions, crystal.scaled_positions, rtol=0, atol=1e-10)
        assert abs(prediction.volume_change) > 1e-3

    @pytest.mark.parametrize("name", [*SYMMETRIC, "wurtzite"])
    def test_space_group_stays(self, predictor: Predictor, name: str):
        before, after = (space_group(c) for c in (CRYSTALS[name], predictor.predict(CRYSTALS[name]).relaxed))
        assert before[0] == after[0] > 1
        np.testing.assert_array_equal(before[1], after[1])

    def test_cubic_cell_stays_cubic(self, predictor: Predictor):
        cell = predictor.predict(CRYSTALS["perovskite"]).relaxed.cell
        np.testing.assert_allclose(cell, np.eye(3) * cell[0, 0], rtol=0, atol=1e-12)

    def test_network_alone_keeps_it_to_its_precision(self, make):
        cell = make(keep_symmetry=False).predict(CRYSTALS["perovskite"]).relaxed.cell
        deviation = np.abs(cell - np.eye(3) * cell[0, 0]).max()
        assert 0 < deviation < 0.2  # pairs within the cell single out directions: why keep_symmetry is the default


class TestFixedCell:
    @every_crystal
    def test_cell_stays_bitwise(self, exact: Predictor, predictor: Predictor, crystal: Crystal):
        for chosen in (exact, predictor):
            np.testing.assert_array_equal(chosen.predict(crystal, relax_cell=False).relaxed.cell, crystal.cell)

    def test_atoms_move_all_the_same(self, predictor: Predictor):
        for name in DISTORTED:
            assert np.abs(predictor.predict(CRYSTALS[name], relax_cell=False).displacements).max() > 0.01

    @pytest.mark.parametrize("name", SYMMETRIC)
    def test_atoms_on_symmetric_sites_do_not(self, predictor: Predictor, name: str):
        prediction = predictor.predict(CRYSTALS[name], relax_cell=False)
        np.testing.assert_allclose(prediction.relaxed.positions, CRYSTALS[name].positions, rtol=0, atol=1e-10)

    def test_in_batches(self, predictor: Predictor):
        for prediction in predictor.predict_many(CRYSTALS.values(), relax_cell=False):
            np.testing.assert_array_equal(prediction.relaxed.cell, prediction.initial.cell)


# The paper's own network


@pytest.fixture(scope="module")
def paper(make) -> Predictor:
    """The paper's DeepRelax, small and untrained; noise in the last layer of its lattice head, which starts at zero."""
    torch.manual_seed(1)
    config = replace(
        ABLATIONS["DeepRelax"], channels=16, num_layers=2, num_basis=32, basis_stop=12.0, encoding_channels=16
    )
    networks = torch.nn.ModuleList(DeepRelax(config).eval().requires_grad_(False) for _ in range(2))
    for network in networks:
        torch.nn.init.normal_(network.lattice_head.output[-1].weight, std=0.3)
        for head in (network.distance_head, network.displacement_head):
            torch.nn.init.constant_(head.output[-1].bias[:1], 3.0)  # Å, so that atoms do not collapse
    words = dict.fromkeys(("description", "level_of_theory", "training_data", "split", "sha256"), "")
    card = ModelCard(
        name="paper", elements=list(range(1, 95)), members=2, parameters=0, config=config.to_dict(), **words
    )
    return make(model=Model(card, networks), dtype="float64", keep_symmetry=False)


@pytest.mark.parametrize("name", ["rattled perovskite", "rattled rocksalt", "triclinic"])
class TestPaper:
    def graphs(self, paper: Predictor, name: str):
        crystal, turn = CRYSTALS[name], rotation(6)
        turned = crystal.with_geometry(crystal.positions @ turn, crystal.cell @ turn)
        graphs = [build_graph([c], backend="torch", settings=paper.graph_settings) for c in (crystal, turned)]
        return crystal, turned, graphs, turn

    def test_distances_do_not_turn(self, paper: Predictor, name: str):
        still, turned = (paper.model.quantities(graph) for graph in self.graphs(paper, name)[2])
        for field in ("distances", "distance_scales", "displacements", "displacement_scales"):
            torch.testing.assert_close(getattr(turned, field), getattr(still, field), rtol=0, atol=1e-12)
        assert still.distances.std() > 0.01

    def test_positions_turn_in_a_given_cell(self, paper: Predictor, name: str):
        crystal, turned, _, turn = self.graphs(paper, name)
        still = paper.predict(crystal, relax_cell=False)
        expected = replace(still, relaxed=crystal.with_geometry(still.relaxed.positions @ turn, crystal.cell @ turn))
        assert_same(expected, paper.predict(turned, relax_cell=False), atol=1e-9)
        assert np.abs(still.displacements).max() > 0.1

    def test_predicted_cell_does_not(self, paper: Predictor, name: str):
        """Eq. (10) reads the nine components of the cell as plain numbers; the strain head mends this."""
        crystal, turned, _, turn = self.graphs(paper, name)
        before, after = paper.predict(crystal), paper.predict(turned)
        off = np.abs(before.relaxed.cell @ turn - after.relaxed.cell).max()
        change = np.abs(before.relaxed.cell - crystal.cell).max()
        volumes = before.relaxed.volume, after.relaxed.volume
        report = f"cells differ by {off:.2g} Å where they change by {change:.2g} Å; volumes {volumes} Å³"
        assert off > 0.1 * change > 1e-2, report
        assert abs(volumes[0] - volumes[1]) > 1e-3, report


# On crystals


def test_relaxed_crystals_hardly_move(predictor: Predictor, data_pairs, data_crystals):
    chosen = np.flatnonzero(data_pairs("universal")["split"] == 2)[:24]
    predictions = list(predictor.predict_many(data_crystals("universal", chosen, which="relaxed")))
    assert np.mean([np.linalg.norm(p.displacements, axis=1).mean() for p in predictions]) < 0.01
    assert np.mean([abs(p.volume_change) for p in predictions]) < 0.05


def test_unrelaxed_crystals_come_nearer(predictor: Predictor, data_pairs, data_crystals):
    chosen = np.flatnonzero(data_pairs("universal")["split"] == 2)[:24]
    predictions = list(predictor.predict_many(data_crystals("universal", chosen)))
    volumes = np.array([c.volume for c in data_crystals("universal", chosen, which="relaxed")])
    error = np.abs([p.relaxed.volume for p in predictions] - volumes).mean()
    assert error < 0.5 * np.abs([p.initial.volume for p in predictions] - volumes).mean()


@pytest.mark.parametrize("name", ["one atom", "thin", "skewed", "unwrapped", "left-handed"])
def test_awkward_cells(predictor: Predictor, sample_crystals, name: str):
    crystal = sample_crystals[name]
    prediction = predictor.predict(crystal)
    assert len(prediction.relaxed) == len(crystal)
    assert np.isfinite(prediction.relaxed.positions).all()
    assert np.sign(np.linalg.det(prediction.relaxed.cell)) == np.sign(np.linalg.det(crystal.cell))
    assert abs(prediction.volume_change) < 0.6
    assert np.isfinite(prediction.uncertainty.total)


def test_one_atom_stays_in_its_cell(predictor: Predictor, sample_crystals):
    crystal = sample_crystals["one atom"]
    prediction = predictor.predict(crystal)
    np.testing.assert_allclose(prediction.relaxed.scaled_positions, crystal.scaled_positions, rtol=0, atol=1e-12)
    assert prediction.uncertainty.per_atom.shape == (1,)


@every_crystal
def test_record_is_complete(predictor: Predictor, crystal: Crystal):
    prediction = predictor.predict(crystal)
    uncertainty = prediction.uncertainty
    assert prediction.initial is crystal
    assert prediction.model == predictor.model_name == DEFAULT_MODEL
    np.testing.assert_array_equal(prediction.relaxed.numbers, crystal.numbers)
    assert 0 < uncertainty.total < 5
    assert uncertainty.total == pytest.approx(np.hypot(uncertainty.aleatoric, uncertainty.epistemic), rel=1e-5)
    assert uncertainty.per_atom.shape == (len(crystal),)
    assert uncertainty.per_bond.shape == (len(uncertainty.bonds),)
    assert uncertainty.bonds.shape[1] == 5
    assert set(np.unique(uncertainty.bonds[:, :2])) <= set(range(len(crystal)))
    assert set(prediction.timings) == {"graph", "network", "geometry"}
    assert min(prediction.timings.values()) > 0


# Batches


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-5), ("float64", 1e-10)])
@pytest.mark.parametrize("atoms_per_batch", [None, 9])
def test_batch_is_as_single(make, dtype: str, atol: float, atoms_per_batch: int | None):
    predictor = make(dtype=dtype)
    together = list(predictor.predict_many(CRYSTALS.values(), atoms_per_batch=atoms_per_batch))
    assert len(together) == len(CRYSTALS)
    for crystal, prediction in zip(CRYSTALS.values(), together, strict=True):
        alone = predictor.predict(crystal)
        assert prediction.initial is crystal
        assert_same(alone, prediction, atol=atol)
        np.testing.assert_array_equal(prediction.uncertainty.bonds, alone.uncertainty.bonds)
        np.testing.assert_allclose(prediction.uncertainty.per_bond, alone.uncertainty.per_bond, rtol=0, atol=atol)


def test_both_graph_backends_agree(make, needs_dgl):
    matgl, plain = make(dtype="float64", graph_backend="matgl"), make(dtype="float64")
    for crystal in CRYSTALS.values():
        assert_same(matgl.predict(crystal), plain.predict(crystal), atol=1e-10)
    for a, b in zip(matgl.predict_many(CRYSTALS.values()), plain.predict_many(CRYSTALS.values()), strict=True):
        assert_same(a, b, atol=1e-10)


def test_many_are_read_as_they_are_needed(predictor: Predictor):
    read = []

    def structures():
        for k in range(100):
            read.append(k)
            yield CRYSTALS["hcp"]

    predictions = predictor.predict_many(structures(), atoms_per_batch=4)
    assert read == []
    next(predictions)
    assert len(read) <= 3
    assert predictor.predict_many(iter([])) is not None
    assert list(predictor.predict_many([])) == []


def test_a_crystal_larger_than_a_batch(predictor: Predictor):
    crystals = [CRYSTALS["hcp"], CRYSTALS["rattled rocksalt"], CRYSTALS["hcp"]]
    assert [len(p.relaxed) for p in predictor.predict_many(crystals, atoms_per_batch=1)] == [2, 8, 2]


def test_bad_ones_yield_their_error(predictor: Predictor):
    good = [CRYSTALS["hcp"], CRYSTALS["rattled perovskite"], CRYSTALS["rocksalt"].to_atoms()]
    helium = bulk("Cu", cubic=True)
    helium.numbers[1] = 2
    broken = bulk("Cu", cubic=True)
    broken.positions[2] = np.nan
    overlapping = bulk("Cu", cubic=True)
    overlapping.positions[1] = overlapping.positions[0]
    mixed = [broken, good[0], overlapping, good[1], helium, molecule("H2O"), good[2], Atoms()]
    expected = [
        NonFiniteError,
        Prediction,
        OverlappingAtomsError,
        Prediction,
        UnsupportedElementError,
        MissingCellError,
        Prediction,
        EmptyStructureError,
    ]
    results = list(predictor.predict_many(mixed))
    assert [type(result) for result in results] == expected
    for result, alone in zip(results[1::2][:2] + results[6:7], map(predictor.predict, good), strict=True):
        assert_same(alone, result, atol=1e-5)
    for structure, result in zip(mixed, results, strict=True):
        if isinstance(result, StructureError):
            with pytest.raises(type(result), match=f"^{re.escape(str(result))}$"):  # no number within the batch in it
                predictor.predict(structure)


def test_all_bad(predictor: Predictor):
    assert [type(r) for r in predictor.predict_many([Atoms(), molecule("H2")])] == [
        EmptyStructureError,
        MissingCellError,
    ]


# The caller's objects


def snapshot(atoms: Atoms) -> dict:
    return copy.deepcopy(
        {
            "arrays": atoms.arrays,
            "cell": atoms.cell.array,
            "pbc": atoms.pbc,
            "info": atoms.info,
            "fixed": [c.todict() for c in atoms.constraints],
            "results": atoms.calc.results,
        }
    )


def test_callers_atoms_stay(predictor: Predictor):
    atoms = CRYSTALS["rattled rocksalt"].to_atoms()
    atoms.set_initial_magnetic_moments(np.arange(8.0))
    atoms.set_tags(range(8))
    atoms.info["id"] = {"nested": [1, 2]}
    atoms.set_constraint(FixAtoms([0]))
    atoms.calc = calculator = EMT()
    before = snapshot(atoms)
    predictor.predict(atoms)
    list(predictor.predict_many([atoms, atoms]))
    after = snapshot(atoms)
    np.testing.assert_equal(after, before)
    assert atoms.calc is calculator


def test_structures_of_all_kinds(predictor: Predictor):
    pytest.importorskip("pymatgen")
    crystal = CRYSTALS["triclinic"]
    expected = predictor.predict(crystal)
    structure = crystal.to_structure()
    assert_same(expected, predictor.predict(crystal.to_atoms()), atol=0)
    assert_same(expected, predictor.predict(structure), atol=1e-5)
    assert structure == crystal.to_structure()


def test_anything_else_is_refused(predictor: Predictor):
    with pytest.raises(TypeError, match=r"got str\. Read a file with ase\.io\.read first"):
        predictor.predict("POSCAR")


def test_callers_model_stays(model: Model, make):
    before = {key: tensor.clone() for key, tensor in model.networks.state_dict().items()}
    single, double = make(dtype="float32"), make(dtype="float64")
    a, b = double.predict(CRYSTALS["triclinic"]), single.predict(CRYSTALS["triclinic"])
    assert_same(a, b, atol=1e-3)
    assert not np.array_equal(a.relaxed.cell, b.relaxed.cell)
    for key, tensor in model.networks.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[key])


def test_two_calls_agree_bitwise(predictor: Predictor):
    first, second = (list(predictor.predict_many(CRYSTALS.values())) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert_same(a, b, atol=0)
    for name in DISTORTED:
        assert_same(predictor.predict(CRYSTALS[name]), predictor.predict(CRYSTALS[name]), atol=0)


# Options and errors


def test_says_what_it_is(make):
    assert repr(make(dtype="float64")) == f"Predictor('{DEFAULT_MODEL}', device='cpu', dtype='float64')"


def test_solver_settings(make, model: Model):
    assert make().solver == EDGSettings(**model.card.solver)
    lazy = make(solver=EDGSettings(max_steps=0))
    prediction = lazy.predict(CRYSTALS["triclinic"])
    assert prediction.solver_steps == 0
    assert not prediction.solver_converged


def test_settings_of_another_version(make, model: Model):
    card = replace(model.card, solver={"patience": 3})
    with pytest.raises(ModelError, match="patience"):
        make(model=Model(card, model.networks))


def test_unknown_options(make):
    with pytest.raises(ValueError, match=r"Unknown dtype='float16', must be one of .*float32.*float64"):
        make(dtype="float16")
    with pytest.raises(ValueError, match=r"Unknown graph_backend='dgl', must be one of .*matgl"):
        make(graph_backend="dgl")
    with pytest.raises(ModelError, match=f"Unknown model 'M3GNet', must be one of: .*{DEFAULT_MODEL}"):
        make(model="M3GNet")


@pytest.mark.parametrize("device", ["gpu", "", "cuda:4096"])
def test_nonsense_device(make, device: str):
    with pytest.raises(DeviceError, match=f"device '{device}' is not available.*'auto', 'cpu'"):
        make(device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_no_cuda(make):
    with pytest.raises(DeviceError, match=r"device 'cuda' is not available.*Use 'auto', 'cpu', or .*CUDA"):
        make(device="cuda")
    assert make(device="auto").device.type == "cpu"


def cu(**changes) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    for name, value in changes.items():
        setattr(atoms, name, value)
    return atoms


def shared_site() -> Atoms:
    atoms = cu()
    atoms.info["occupancy"] = {"0": {"Cu": 0.5, "Au": 0.5}}
    return atoms


@pytest.mark.parametrize(
    ("structure", "error", "message"),
    [
        (Atoms(cell=np.eye(3), pbc=True), EmptyStructureError, "no atoms; check the file"),
        (molecule("H2O"), MissingCellError, r"no periodic cell.*atoms\.pbc = True"),
        (cu(pbc=(True, True, False)), PartialPeriodicityError, "all three directions.*relax_cell=False"),
        (cu(cell=np.ones((3, 3))), SingularCellError, "linearly dependent.*complete"),
        (cu(positions=np.full((4, 3), np.inf)), NonFiniteError, r"atoms \[0, 1, 2, 3\] hold NaN or infinity"),
        (cu(positions=np.zeros((4, 3))), OverlappingAtomsError, "0.000 Å apart.*duplicate"),
        (cu(cell=np.eye(3) * 0.3), OverlappingAtomsError, "Check the lengths of the cell and their unit"),
        (Atoms("Cu", cell=np.eye(3) * 20, pbc=True), IsolatedAtomError, "no neighbour within 6.0 Å.*vacuum"),
        (cu(numbers=[29, 86, 2, 29]), UnsupportedElementError, f"{DEFAULT_MODEL} was not trained on He, Rn"),
        (cu(numbers=[29, 29, 0, 29]), UnsupportedElementError, f"{DEFAULT_MODEL} was not trained on X"),
        (shared_site(), DisorderedStructureError, "site 0 is occupied by .*ordered structure first"),
    ],
)
@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_errors_teach_the_mend(make, structure: Atoms, error: type[StructureError], message: str, backend: str):
    with pytest.raises(error, match=message):
        make(graph_backend=backend).predict(structure)
