"""Crystals that jump and finish together: each comes out as it does alone."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixedPlane

from deeprelax_ase.calculators import M3GNET_POTENTIAL, AsePotential
from deeprelax_ase.calculators.identity import M3GNET_WEIGHTS
from deeprelax_ase.optimizers import finish_atoms, finish_in_batches
from deeprelax_ase.optimizers.batched_finish import pays_in_batches
from deeprelax_ase.prediction.allowed_strain import AllowedStrain
from tests.batched_emt import Together
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


def in_a_plane() -> Atoms:
    atoms = good().atoms
    atoms.set_constraint(FixedPlane([0], (0, 0, 1)))
    return atoms


CRYSTALS = {
    "good": lambda: good().atoms,
    "one atom fixed": lambda: constrained().atoms,
    "some fixed": fixed,
    "other constraints": in_a_plane,
    "jump rejected": lambda: bulk("Ag", a=4.04),
    "start at rest": lambda: bulk("Cu", a=3.59),
    "layer": layer,
    "slab": lambda: fcc111("Cu", (1, 1, 4), a=3.7, vacuum=6),
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
        *({}, {"finish": "fast", "fmax": 0.02}, {"finish": None}, {"relax_cell": False}, {"steps": 2}),
        {"finish": "bfgs"},
        {"relax_cell": AllowedStrain((1, 1, 0, 0, 0, 1))},
        {"relax_cell": AllowedStrain((1, 1, 1, 0, 0, 0), constant_volume=True)},
        {"relax_cell": AllowedStrain((1, 1, 0, 0, 0, 1), constant_volume=True), "finish": "fast"},
        {"relax_cell": AllowedStrain(pressure=0.05)},
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
        for field in ("status", "reason", "jump", "model", "uncertainty", "calculator"):
            assert getattr(result, field) == getattr(expected, field), (name, field)
        if name == "some fixed":  # its cell is strained from where the jump ended, not from the start
            assert abs(result.steps - expected.steps) < 10
            continue
        assert result.steps == expected.steps
        reasons = [(told.jump_reason or "").replace("-0.0000", "+0.0000") for told in (result, expected)]
        assert reasons[0] == reasons[1]
        assert 0 <= result.force_calls - expected.force_calls <= (expected.jump == "kept")  # a jump that moves nothing
        np.testing.assert_allclose(relaxed.positions, alone.positions, rtol=0, atol=3e-3)
        np.testing.assert_allclose(relaxed.cell.array, alone.cell.array, rtol=0, atol=3e-3)
        assert relaxed.info.keys() == alone.info.keys()
        assert relaxed.pbc.tolist() == alone.pbc.tolist()
        assert relaxed.constraints.__repr__() == alone.constraints.__repr__()
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
    for result, atoms in together([CRYSTALS["good"](), CRYSTALS["other constraints"]()], potential):
        assert result.potential == atoms.info["deeprelax_potential"] == M3GNET_POTENTIAL
