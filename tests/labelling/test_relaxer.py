"""Relaxations that make labels: what they find, what they keep, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import CalculatorError, VacuumError
from deeprelax_ase.labelling import LabelOptions
from deeprelax_ase.labelling.relaxer import Relaxation, Relaxer
from tests.labelling.alloys import EMT_NAME, Together, alloys, slab


def relaxed(atoms: Atoms, calculator: str = EMT_NAME, **options: object) -> Relaxation:
    (made,) = Relaxer(LabelOptions(calculator, **options))([Crystal.of(atoms)])
    if isinstance(made, Exception):
        raise made
    return made


def test_it_ends_where_ase_ends_and_knows_the_start() -> None:
    atoms = alloys(1)[0]
    made = relaxed(atoms, fmax=0.01)
    atoms.calc = EMT()
    assert made.energy_initial == pytest.approx(atoms.get_potential_energy())
    np.testing.assert_allclose(made.forces, atoms.get_forces(), atol=1e-9)
    np.testing.assert_allclose(made.stress, atoms.get_stress(voigt=False), atol=1e-9)
    optimizer = FIRE(FrechetCellFilter(atoms), logfile=None)
    assert optimizer.run(fmax=0.01, steps=500)
    assert made.converged
    assert not made.fixed_cell
    assert made.steps == optimizer.nsteps
    np.testing.assert_allclose(made.relaxed.positions, atoms.positions, atol=2e-5)
    np.testing.assert_allclose(made.relaxed.cell, atoms.cell.array, atol=2e-5)
    assert made.energy_relaxed == pytest.approx(atoms.get_potential_energy(), abs=1e-6)


def test_fast_takes_fewer_calls_to_the_same_minimum() -> None:
    atoms = alloys(3)[2]
    slow, fast = (relaxed(atoms, finish=finish) for finish in ("fire", "fast"))
    assert fast.force_calls < slow.force_calls
    assert fast.energy_relaxed == pytest.approx(slow.energy_relaxed, abs=2e-3)


def test_a_rattled_start_leaves_the_saddle_point_that_symmetry_holds_it_at() -> None:
    atoms = bulk("Cu", "sc", a=2.45) * (2, 2, 2)
    held, free = relaxed(atoms), relaxed(atoms, rattle=0.05)
    assert held.converged
    assert free.converged
    assert free.energy_relaxed < held.energy_relaxed - 0.1 * len(atoms)
    np.testing.assert_array_equal(held.initial.positions, atoms.positions)
    moved = free.initial.positions - atoms.positions
    assert 0 < np.abs(moved).max() < 0.25, "the pair begins where the relaxation did"
    atoms.positions += moved
    atoms.calc = EMT()
    np.testing.assert_allclose(free.forces, atoms.get_forces(), atol=1e-9)
    other = relaxed(bulk("Cu", "sc", a=2.45) * (2, 2, 2), rattle=0.05, rattle_seed=1)
    assert np.abs(other.initial.positions - free.initial.positions).max() > 1e-3


def test_too_few_steps_do_not_converge() -> None:
    made = relaxed(alloys(1)[0], steps=2)
    assert not made.converged
    assert made.steps == 2


@pytest.mark.parametrize(("relax_cell", "fixed"), [(None, True), (True, False), (False, True)])
def test_slabs_keep_their_cell_unless_asked(relax_cell: bool | None, fixed: bool) -> None:
    atoms = slab()
    made = relaxed(atoms, relax_cell=relax_cell)
    assert made.fixed_cell == fixed
    changed = np.abs(made.relaxed.cell - atoms.cell.array)
    assert changed[2].max() == 0, "the vacuum stays"
    assert (changed.max() == 0) == fixed
    assert np.abs(made.relaxed.positions - atoms.positions).max() > 0.01


def test_what_is_no_crystal_is_refused() -> None:
    with pytest.raises(VacuumError, match="a molecule"):
        relaxed(Atoms("CuAu", [[0, 0, 0], [0, 0, 2.5]], cell=[12] * 3, pbc=True))


@pytest.mark.parametrize(
    "normal", [(0, -1, 2), *(pytest.param(n, marks=pytest.mark.slow) for n in ((1, -1, 0), (0, 1, 0)))]
)
def test_layers_may_lie_as_they_like(normal: tuple[int, int, int]) -> None:
    atoms = fcc111("Cu", (1, 1, 1), a=3.7, vacuum=6) * (2, 1, 1)
    atoms.pbc = True
    atoms.rattle(0.05, seed=1)
    expected = relaxed(atoms)
    turned = atoms.copy()
    turned.rotate("z", normal, rotate_cell=True)
    made = relaxed(turned)
    assert made.converged
    assert not made.fixed_cell
    assert abs(made.steps - expected.steps) <= 1  # the largest component of a strain depends on the axes
    assert made.energy_relaxed == pytest.approx(expected.energy_relaxed, abs=1e-4)
    np.testing.assert_allclose(made.relaxed.cell[2], turned.cell[2], rtol=0, atol=1e-9)
    assert np.abs(made.relaxed.cell[:2] - turned.cell[:2]).max() > 0.01
    turned.calc = EMT()
    np.testing.assert_allclose(made.forces, turned.get_forces(), rtol=0, atol=1e-9)
    np.testing.assert_allclose(made.stress, turned.get_stress(voigt=False), rtol=0, atol=1e-9)
    end = turned.copy()
    end.set_cell(made.relaxed.cell)
    end.set_positions(made.relaxed.positions)
    end.calc = EMT()
    assert end.get_potential_energy() == pytest.approx(made.energy_relaxed, abs=1e-9)


def test_a_potential_without_stress_relaxes_atoms_alone() -> None:
    name = "tests.labelling.alloys:Stressless"
    with pytest.raises(CalculatorError, match="gives no stress"):
        relaxed(alloys(1)[0], name)
    made = relaxed(alloys(1)[0], name, relax_cell=False)
    assert made.converged
    assert np.isnan(made.stress).all()


def test_one_that_fails_costs_no_other() -> None:
    crystals = [Crystal.of(atoms) for atoms in alloys(6)]
    made = Relaxer(LabelOptions("tests.labelling.alloys:Forbidding"))(crystals)
    for crystal, one in zip(crystals, made, strict=True):
        assert isinstance(one, CalculatorError) == bool({78, 79} & set(crystal.numbers.tolist()))
    told = " ".join(str(one) for one in made if isinstance(one, Exception))
    assert "RuntimeError: no gold here" in told
    assert "not finite" in told


def test_many_at_once_are_what_they_are_alone() -> None:
    crystals = [*map(Crystal.of, alloys(7)), Crystal.of(slab())]
    alone = [Relaxer(LabelOptions(EMT_NAME, finish="fast"))([crystal])[0] for crystal in crystals]
    Together.asked.clear()
    together = Relaxer(LabelOptions("tests.labelling.alloys:emt_together", finish="fast"))(crystals)
    assert max(Together.asked) == 5, "as many as fit into what it takes at once"
    for one, other in zip(alone, together, strict=True):
        assert isinstance(one, Relaxation)
        assert isinstance(other, Relaxation)
        assert (one.steps, one.force_calls, one.fixed_cell) == (other.steps, other.force_calls, other.fixed_cell)
        assert one.force_calls == one.steps + 1
        for name in ("energy_initial", "energy_relaxed", "forces", "stress"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-6)
        np.testing.assert_allclose(one.relaxed.positions, other.relaxed.positions, atol=1e-6)


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="no relaxation ends at"):
        LabelOptions("m3gnet", fmax=0)
    with pytest.raises(ValueError, match="at least 1"):
        LabelOptions("m3gnet", steps=0)
    with pytest.raises(ValueError, match=r"rattle=-0\.01 Å must be 0 for none"):
        LabelOptions("m3gnet", rattle=-0.01)
    with pytest.raises(ValueError, match="does not relax in batches: take one of fire, fast"):
        LabelOptions("m3gnet", finish="gradient")
    with pytest.raises(CalculatorError, match="Unknown calculator"):
        Relaxer(LabelOptions("emtt"))
