"""Crystals that jump and finish together: each comes out as it does alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian, FixCom, FixedLine, FixedPlane

from deeprelax_ase.calculators import M3GNET_POTENTIAL, AsePotential
from deeprelax_ase.calculators.identity import M3GNET_WEIGHTS
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import DeepRelaxError, IsolatedAtomError, UnsupportedElementError, force_calls_of
from deeprelax_ase.models.registry import M3GNET_RELAX_MODEL
from deeprelax_ase.optimizers import finish_atoms, finish_in_batches
from deeprelax_ase.optimizers.batched.finish import pays_in_batches
from deeprelax_ase.prediction.allowed_strain import AllowedStrain
from tests.batched_emt import Together
from tests.optimizers.force_reader import M3GNetCalculator
from tests.optimizers.frames import constrained, good, helium, molecule
from tests.stand_in import StandInPredictor


def layer() -> Atoms:
    atoms = fcc111("Cu", (1, 1, 1), a=3.7, vacuum=5)
    atoms.pbc = (True, True, False)
    return atoms


def fixed() -> Atoms:
    atoms = good().atoms * (2, 1, 1)
    atoms.rattle(0.05, seed=1)
    atoms.set_constraint(FixAtoms([0, 3]))
    return atoms


def rattled() -> Atoms:
    atoms = good().atoms
    strain = [[0.04, 0.02, 0], [0.02, -0.03, 0.01], [0, 0.01, 0]]
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    atoms.rattle(0.05, seed=3)
    return atoms


def held(*constraints) -> Atoms:
    atoms = rattled()
    atoms.set_constraint([*constraints])
    return atoms


def overlapping() -> Atoms:
    atoms = good().atoms
    atoms.positions[1] = atoms.positions[0] + (0.05, 0, 0)
    return atoms


CRYSTALS = {
    "good": lambda: good().atoms,
    "one atom fixed": lambda: constrained().atoms,
    "some fixed": fixed,
    "rattled": rattled,
    "rattled, in a plane": lambda: held(FixedPlane([0, 3], (1, 0, 1))),
    "rattled, on a line": lambda: held(FixedLine([1], (1, 2, 0)), FixAtoms([2])),
    "rattled, along axes": lambda: held(FixCartesian([2, 3], (1, 0, 1))),
    "rattled, without common motion": lambda: held(FixCom()),
    "jump rejected": lambda: bulk("Ag", a=4.04),
    "start at rest": lambda: bulk("Cu", a=3.59),
    "layer": layer,
    "slab": lambda: fcc111("Cu", (1, 1, 4), a=3.7, vacuum=6),
    "overlapping": overlapping,
    "helium": lambda: helium().atoms,
    "molecule": lambda: molecule().atoms,
    "unknown element": lambda: bulk("MgO", "rocksalt", a=4.2),
}


def together(crystals: list[Atoms], potential: Together | None = None, **options):
    return finish_in_batches(
        [(atoms, None) for atoms in crystals], StandInPredictor(), potential or Together(), **options
    )


@pytest.mark.parametrize(
    "options",
    [
        *({"finish": "fast", "fmax": 0.02}, {"finish": None}, {"relax_cell": False}, {"steps": 2}, {"steps": 0}),
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param(
            {"relax_cell": AllowedStrain((1, 1, 0, 0, 0, 1), constant_volume=True), "finish": "fast"},
            marks=pytest.mark.slow,
        ),
        pytest.param({"finish": "bfgs"}, marks=pytest.mark.slow),
        pytest.param({"relax_cell": AllowedStrain((1, 1, 0, 0, 0, 1))}, marks=pytest.mark.slow),
        pytest.param({"relax_cell": AllowedStrain((1, 1, 1, 0, 0, 0), constant_volume=True)}, marks=pytest.mark.slow),
        pytest.param({"relax_cell": AllowedStrain(pressure=0.05)}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_each_is_what_it_is_alone(options: dict) -> None:
    given = [make() for make in CRYSTALS.values()]
    before = [atoms.copy() for atoms in given]
    made = together(given, **options)
    assert given == before
    for name, atoms, one in zip(CRYSTALS, given, made, strict=True):
        if isinstance(one, Exception):
            with pytest.raises(Exception, match=str(one).rpartition(": ")[2][:40]):
                finish_atoms(atoms, StandInPredictor(), EMT(), **options)
            continue
        expected, alone = finish_atoms(atoms, StandInPredictor(), EMT(), **options)
        result, relaxed = one
        moves_nothing = "rattled" in name and options.get("relax_cell") is False  # kept or not by rounding
        for field in ("status", "reason", "model", "uncertainty", "calculator", *(() if moves_nothing else ("jump",))):
            assert getattr(result, field) == getattr(expected, field), (name, field)
        if "rattled" in name:  # ASE's cells turn, and a step that ends at the limit goes either way
            assert abs(result.steps - expected.steps) <= 1, name
            assert result.energy == pytest.approx(expected.energy, abs=1e-4 * len(atoms))
        else:
            assert result.steps == expected.steps, name
            np.testing.assert_allclose(relaxed.positions, alone.positions, rtol=0, atol=3e-3)
            np.testing.assert_allclose(relaxed.cell.array, alone.cell.array, rtol=0, atol=3e-3)
        reasons = [(told.jump_reason or "").replace("-0.0000", "+0.0000") for told in (result, expected)]
        assert moves_nothing or reasons[0] == reasons[1]
        assert 0 <= result.force_calls - expected.force_calls - (result.steps - expected.steps) <= 1  # see above
        assert result.fmax == pytest.approx(np.linalg.norm(relaxed.get_forces(), axis=1).max())
        assert result.status != "converged" or result.fmax < options.get("fmax", 0.05) / 0.9  # of strained positions
        assert relaxed.info.keys() == alone.info.keys()
        assert relaxed.pbc.tolist() == alone.pbc.tolist()
        assert [kept.todict() for kept in relaxed.constraints] == [kept.todict() for kept in alone.constraints]
        fresh = relaxed.copy()
        fresh.calc = EMT()
        assert relaxed.get_potential_energy() == pytest.approx(fresh.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(relaxed.get_forces(), fresh.get_forces(), rtol=0, atol=1e-9)
        if relaxed.cell.rank == 3:
            np.testing.assert_allclose(relaxed.get_stress(), fresh.get_stress(), rtol=0, atol=1e-9)


def test_starts_jumps_and_steps_are_computed_together() -> None:
    potential = Together()
    made = together([good().atoms for _ in range(5)], potential)
    assert potential.asked[:2] == [5, 5]
    assert sum(potential.asked) == sum(result.force_calls for result, _ in made)
    assert max(potential.asked) == 5


def test_predictions_that_are_given_are_taken() -> None:
    predictor = StandInPredictor()
    prediction = predictor.predict(good().atoms)
    predictor.predict_many = None  # type: ignore[method-assign]
    ((result, relaxed),) = finish_in_batches([(good().atoms, prediction)], predictor, Together(), finish=None)
    assert result.jump == "kept"
    np.testing.assert_allclose(relaxed.positions, prediction.relaxed.positions)


class Sudden(EMT):
    """EMT whose forces are no numbers for one start, nor near the minimum of another."""

    def calculate(self, atoms, *args) -> None:
        super().calculate(atoms, *args)
        start = abs(atoms.get_volume() - bulk("Pt", a=4.1).get_volume()) < 1e-6
        if start or ("Au" in atoms.symbols and atoms.get_volume() < bulk("Au", a=4.1).get_volume()):
            self.results["forces"] = np.full((len(atoms), 3), np.nan)


def test_forces_that_are_no_numbers() -> None:
    """The jump leads away from a start that has none; where steps lead to such a place, the crystal fails."""
    platinum, gold, copper = together([bulk("Pt", a=4.1), bulk("Au", a=4.27), good().atoms], Together(Sudden()))
    assert platinum[0].status == "converged"
    assert platinum[0].jump == "kept"
    assert isinstance(gold, Exception)
    assert "not finite, after step" in str(gold)
    assert copper[0].status == "converged"


def test_constraints_of_atoms_that_are_not_there_cost_no_other() -> None:
    wrong = good().atoms
    wrong.set_constraint(FixAtoms([77]))
    (_, relaxed), error = finish_in_batches([(good().atoms, None), (wrong, None)], StandInPredictor(), Together())
    assert len(relaxed) == len(wrong)
    assert isinstance(error, IndexError)


def test_no_stress_no_cell() -> None:
    class WithoutStress(EMT):
        implemented_properties = ("energy", "free_energy", "forces")

    refused, _ = together([good().atoms, good().atoms], Together(WithoutStress()))
    assert "gives no stress" in str(refused)
    for result, _ in together([good().atoms, fixed()], Together(WithoutStress()), relax_cell=False):
        assert result.status == "converged"


@pytest.mark.parametrize(("finish", "pays"), [("fire", True), ("FAST", True), (None, True), ("lbfgs", False)])
def test_what_goes_in_batches(finish: str | None, pays: bool) -> None:
    assert pays_in_batches(Together(), finish) is pays
    assert not pays_in_batches(AsePotential(EMT()), finish)


def test_results_say_which_potential_gave_them():
    potential = Together()
    potential.weights_digest = M3GNET_WEIGHTS
    for result, atoms in together([CRYSTALS["good"](), CRYSTALS["rattled, without common motion"]()], potential):
        assert result.potential == atoms.info["deeprelax_potential"] == M3GNET_POTENTIAL


class Reader(StandInPredictor):
    """Reads forces: atoms follow them, and the cell its stress. Silver goes too far, and gold where no crystal is."""

    model_name = M3GNET_RELAX_MODEL
    reads_forces = True

    def __init__(self) -> None:
        super().__init__()
        self.read: list[int] = []
        self.together = False

    def predict_with_forces(self, structure, forces, stress, *, relax_cell=None):
        initial = Crystal.of(structure)
        self.read += [1] * (not self.together)
        if "Au" in initial.symbols:
            raise IsolatedAtomError("too far apart")
        strain = np.eye(3) - (0.8 if "Ag" in initial.symbols else 0.05) * (stress + stress.T)
        cell = initial.cell @ strain
        moved = initial.with_geometry(initial.fractional_positions @ cell + 0.01 * forces, cell)
        return replace(self.predict(structure), relaxed=moved)

    def predict_many_with_forces(self, found):
        asked, self.together = [*found], True
        self.read.append(len(asked))
        for structure, forces, stress in asked:
            try:
                yield self.predict_with_forces(structure, forces, stress)
            except DeepRelaxError as error:
                yield error


INFORMED = {
    "rattled": rattled,
    "fixed": fixed,
    "too far": lambda: bulk("Ag", cubic=True, a=4.35),
    "nowhere": lambda: bulk("Au", cubic=True, a=4.35),
    "jump rejected": lambda: bulk("Ag", a=4.04),
    "start at rest": lambda: bulk("Cu", a=3.59),
    "layer": layer,
}


@pytest.mark.parametrize(
    "options",
    [
        *({"steps": 2}, {"finish": "fast"}, {"relax_cell": False}),
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"relax_cell": AllowedStrain((1, 1, 0, 0, 0, 1))}, marks=pytest.mark.slow),
        pytest.param({"relax_cell": AllowedStrain(pressure=0.05)}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_force_informed_steps_are_those_that_each_makes_alone(options: dict) -> None:
    names = [name for name in INFORMED if name != "layer" or "pressure=0.05" not in str(options)]
    given, potential = [INFORMED[name]() for name in names], Together()
    potential.weights_digest = M3GNET_WEIGHTS
    reader = Reader()
    made = finish_in_batches([(atoms, None) for atoms in given], reader, potential, **options)
    alone = Reader()
    for name, atoms, (result, _) in zip(names, given, made, strict=True):
        expected, _ = finish_atoms(atoms, alone, M3GNetCalculator(), **options)
        assert (result.status, result.jump) == (expected.status, expected.jump), name
        assert abs(result.steps - expected.steps) <= (name == "rattled"), name
        assert 0 <= result.force_calls - expected.force_calls - (result.steps - expected.steps) <= 1, name
        assert result.energy == pytest.approx(expected.energy, abs=1e-4 * len(atoms))
    assert sum(reader.read) == len(alone.read)
    reads = not options.get("finish") and options.get("relax_cell") is not False
    assert len(reader.read) == (0 if not reads else 1 if "steps" in options else 2)


@pytest.mark.parametrize("wrong", ["weights", "model"])
def test_others_make_no_force_informed_steps(wrong: str) -> None:
    reader, potential = Reader(), Together()
    potential.weights_digest = M3GNET_WEIGHTS if wrong == "model" else None
    reader.model_name = "another" if wrong == "model" else M3GNET_RELAX_MODEL
    ((result, _),) = finish_in_batches([(rattled(), None)], reader, potential)
    assert result.status == "converged"
    assert reader.read == []


def test_elements_that_the_model_does_not_know_cost_no_call() -> None:
    potential = Together()
    unknown, known = together([bulk("NiHe", "rocksalt", a=4.0), bulk("Cu", a=3.7)], potential)
    assert isinstance(unknown, UnsupportedElementError)
    assert force_calls_of(unknown) is None
    assert known[0].force_calls == sum(potential.asked)


def test_elements_that_the_potential_does_not_know_cost_no_call() -> None:
    potential = Together()
    potential.elements = frozenset({29})
    (result, _), unknown = together([bulk("Cu", a=3.7), bulk("Au", a=4.27)], potential)
    assert sum(potential.asked) == result.force_calls
    assert "does not know Au" in str(unknown)
    assert force_calls_of(unknown) is None


def test_what_failed_tells_its_calls() -> None:
    _, gold = made = together([bulk("Cu", a=3.7), bulk("Au", a=4.27)], Together(Sudden()))
    assert made[0][0].force_calls > 1
    assert force_calls_of(gold) > 2
    with pytest.raises(Exception, match="not finite") as alone:
        finish_atoms(bulk("Au", a=4.27), StandInPredictor(), Sudden())
    assert force_calls_of(alone.value) == force_calls_of(gold)
