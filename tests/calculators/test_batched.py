"""Potentials in batches: what each backend says, and that a bad crystal costs itself alone."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from deeprelax_ase.calculators import (
    M3GNET_VARIABLE,
    AsePotential,
    M3GNetPotential,
    PotentialCalculator,
    TorchSimPotential,
    calculator_name,
    get_batched,
    get_calculator,
)
from deeprelax_ase.errors import CalculatorError, DeviceError
from tests.calculators.batches import Springs, rattled, tensors_of
from tests.calculators.units import M3GNET, assert_units_of_ase, distorted_salt

GOOD = [rattled("Cu", 3.7, 1), rattled("Al", 4.1, 2, cubic=False), rattled("Cu", 3.6, 3)]


def assert_as_alone(potential, calculator, crystals, *, atol: float) -> None:
    """Each crystal of a batch is what ``calculator`` says of it alone."""
    tensors = tensors_of(crystals)
    found = potential(*tensors)
    assert found.errors == {}
    for place, atoms in enumerate(crystals):
        alone = atoms.copy()
        alone.calc = calculator
        energy = alone.get_potential_energy()
        assert float(found.energies[place]) == pytest.approx(energy, abs=atol * len(atoms))
        np.testing.assert_allclose(found.forces[tensors[3] == place], alone.get_forces(), rtol=0, atol=atol)
        np.testing.assert_allclose(found.stresses[place], alone.get_stress(voigt=False), rtol=0, atol=atol)


class TestABatchLosesNothing:
    def test_whatever_one_crystal_raises(self):
        potential = Springs()
        found = potential(*tensors_of([GOOD[0], bulk("Au"), *GOOD[1:]]))
        assert found.errors == {1: "RuntimeError: gold diverges"}
        assert found.energies.isfinite().tolist() == [True, False, True, True]
        assert found.forces.isfinite().all(dim=1).tolist() == [True] * 4 + [False] + [True] * 5
        expected = Springs()(*tensors_of(GOOD))
        torch.testing.assert_close(found.energies[[0, 2, 3]], expected.energies)
        torch.testing.assert_close(found.stresses[[0, 2, 3]], expected.stresses)

    def test_values_that_are_no_numbers(self):
        found = Springs()(*tensors_of([bulk("Ag"), GOOD[0]]))
        assert list(found.errors) == [0]
        assert "not finite" in found.errors[0]

    def test_memory_that_does_not_suffice_halves_the_batch(self):
        potential = Springs(most_atoms=5)
        large = rattled("Al", 4.1, 5) * (2, 1, 1)
        found = potential(*tensors_of([*GOOD, large]))
        assert list(found.errors) == [3]
        assert "needs more memory" in found.errors[3]
        assert potential.asked == [17, 5, 12, 4, 8]

    def test_elements_that_are_not_known_are_not_computed(self):
        potential = Springs(elements=frozenset({13, 29}))
        found = potential(*tensors_of([bulk("NaCl", "rocksalt", a=5.6), *GOOD]))
        assert found.errors == {0: "springs does not know Cl, Na. Choose another calculator."}
        assert potential.asked == [9]
        assert found.energies[1:].isfinite().all()

    def test_cells_that_have_collapsed_are_not_computed(self):
        """Neighbours without an end would take all memory, or for ever."""
        potential = Springs()
        small, flat = bulk("Cu", cubic=True, a=1.0), bulk("Cu", cubic=True, a=4.0)
        flat.set_cell([40.0, 40.0, 0.04], scale_atoms=True)
        found = potential(*tensors_of([GOOD[0], small, flat, GOOD[1]]))
        assert found.errors == {
            1: "the cell has collapsed, to 0.25 Å³ an atom and 1 Å across",
            2: "the cell has collapsed, to 16 Å³ an atom and 0.04 Å across",
        }
        assert potential.asked == [len(GOOD[0]) + len(GOOD[1])]

    @pytest.mark.parametrize("wrong", [np.nan, np.inf])
    def test_a_cell_that_is_no_number_costs_nobody_else(self, wrong: float):
        numbers, positions, cells, batch = tensors_of(GOOD)
        cells[0, 0, 0] = wrong
        found = Springs()(numbers, positions, cells, batch)
        assert found.energies[1:].isfinite().all()

    def test_a_lost_device_is_nobodys_fault(self):
        with pytest.raises(DeviceError, match="Begin anew in another process"):
            Springs()(*tensors_of([*GOOD, bulk("Pt")]))

    def test_nothing_is_left_of_a_batch_of_bad_ones(self):
        found = Springs(elements=frozenset({13}))(*tensors_of([bulk("Cu"), bulk("Ag")]))
        assert sorted(found.errors) == [0, 1]


class TestMemory:
    @pytest.mark.parametrize(("free", "atoms"), [(14e9, 1000), (6e6, 125), (1e12, 20_000)])
    def test_a_gpu_takes_what_half_of_its_free_memory_holds(self, monkeypatch, free, atoms):
        potential = Springs()
        potential.device = torch.device("cuda")
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 141e9))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3e9)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1e9)  # the rest is torch's to give again
        assert potential.atoms_at_once == atoms

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
    def test_a_gpu_is_asked_for_more_once_it_is_known_what_an_atom_takes(self):
        potential = Springs()
        potential.device = torch.device("cuda")
        before = potential.atoms_at_once
        many = [rattled(seed=seed) for seed in range(80)]
        found = potential(*(tensor.cuda() for tensor in tensors_of(many)))
        torch.testing.assert_close(found.energies.cpu(), Springs()(*tensors_of(many)).energies)
        assert potential.atoms_at_once >= before


class TestAnyCalculator:
    def test_each_as_alone(self):
        assert_as_alone(get_batched(EMT()), EMT(), GOOD, atol=1e-12)

    def test_one_that_fails_costs_itself_and_no_second_call(self):
        calls = []

        class Counting(EMT):
            def calculate(self, atoms, *args):
                calls.append(str(atoms.symbols))
                super().calculate(atoms, *args)

        found = get_batched(Counting())(*tensors_of([GOOD[0], bulk("MgO", "rocksalt", a=4.2), GOOD[1]]))
        assert list(found.errors) == [1]
        assert "NotImplementedError" in found.errors[1]
        assert len(calls) == 3

    def test_a_second_one_of_the_same_atoms_is_told_the_same(self):
        salt = bulk("MgO", "rocksalt", a=4.2)
        found = get_batched(EMT())(*tensors_of([salt, salt, GOOD[0]]))
        assert list(found.errors) == [0, 1]
        assert found.errors[1] == found.errors[0]

    def test_one_that_leaves_the_process_costs_its_crystal(self):
        class Leaving(EMT):
            def calculate(self, atoms, *args):
                if "Al" in atoms.symbols:
                    sys.exit("no licence")
                super().calculate(atoms, *args)

        found = get_batched(Leaving())(*tensors_of(GOOD))
        assert found.errors == {1: "SystemExit: no licence"}

    def test_one_without_stress(self):
        class WithoutStress(EMT):
            implemented_properties = ("energy", "free_energy", "forces")

        potential = AsePotential(WithoutStress())
        assert not potential.has_stress
        found = potential(*tensors_of(GOOD))
        assert found.errors == {}
        assert found.stresses.isnan().all()

    def test_its_name_is_kept(self):
        assert get_batched("ase.calculators.emt:EMT").name == "emt"

    def test_none_is_no_potential(self):
        with pytest.raises(CalculatorError, match="no potential"):
            get_batched("none")


class TestAsACalculator:
    def test_of_ase(self):
        calculator = PotentialCalculator(AsePotential(LennardJones(sigma=2.6, epsilon=0.3, rc=8.0, smooth=True)))
        assert_units_of_ase(calculator, forces_above=0.01)
        assert calculator_name(calculator) == "lennardjones"

    def test_and_back(self):
        potential = Springs()
        assert get_batched(PotentialCalculator(potential)) is potential
        assert get_batched(potential) is potential

    def test_what_is_wrong_is_raised(self):
        gold = bulk("Au")
        gold.calc = PotentialCalculator(Springs())
        with pytest.raises(CalculatorError, match="gold diverges"):
            gold.get_potential_energy()


@pytest.mark.skipif(not M3GNET.is_dir(), reason=f"{M3GNET} is absent")
def test_m3gnet_by_folder_and_by_variable(monkeypatch):
    crystals = [distorted_salt(), bulk("MgO", "rocksalt", a=4.4)]
    found = get_batched(f"m3gnet:{M3GNET}", device="cpu")
    monkeypatch.setenv(M3GNET_VARIABLE, str(M3GNET))
    potential = get_batched("M3GNet", device="cpu")
    assert isinstance(potential, M3GNetPotential)
    assert_as_alone(found, PotentialCalculator(potential), crystals, atol=1e-6)
    assert 84 not in potential.elements
    assert potential.elements >= {1, 8, 11, 17, 94}


def test_what_m3gnet_lacks_is_told(monkeypatch, tmp_path):
    with pytest.raises(CalculatorError, match="missing"):
        get_batched(f"m3gnet:{tmp_path}")


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning")  # in CHGNet's own code
@pytest.mark.parametrize(
    ("weights", "alone"), [("0.3.0", False), ("0.2.0", True), pytest.param("r2scan", False, marks=pytest.mark.slow)]
)
def test_chgnet(weights, alone):
    model = pytest.importorskip("chgnet.model").CHGNet.load(model_name=weights, use_device="cpu", verbose=False)
    wide = bulk("K", "fcc", a=7.0)  # no edge is short enough for an angle
    scattered = rattled("Fe", 2.9, 4)  # an atom meets many images of itself, and atoms lie outside of their cell
    scattered.positions += 3 * scattered.cell.array[[0, 1, 2, 0]]
    crystals = [distorted_salt(), bulk("MgO", "rocksalt", a=4.4), wide, scattered, bulk("Li", "bcc", a=2.1)]
    calculator = get_calculator("chgnet", device="cpu", model=model)
    potential = get_batched(calculator)
    assert potential.one_by_one == alone
    assert_as_alone(potential, calculator, crystals, atol=1e-4)  # CHGNet keeps geometry in float32


def test_chgnets_of_others_stay_what_they_are():
    dynamics = pytest.importorskip("chgnet.model.dynamics")
    dispersed = type("WithDispersion", (dynamics.CHGNetCalculator,), {})
    for calculator in (dispersed(use_device="cpu"), dynamics.CHGNetCalculator(use_device="cpu", stress_weight=1.0)):
        assert get_batched(calculator).one_by_one
    assert not get_batched(dynamics.CHGNetCalculator(use_device="cpu")).one_by_one


def test_chgnet_refuses_atoms_without_neighbours():
    pytest.importorskip("chgnet")
    found = get_batched("chgnet", device="cpu")(*tensors_of([bulk("K", "fcc", a=20.0), GOOD[0]]))
    assert found.energies.isfinite().tolist() == [False, True]
    assert "no other within 6 Å" in found.errors[0]


class LennardJonesModel(torch.nn.Module):
    """A model with the interface of TorchSim's, on its own ``LennardJones`` of ASE: cells come in columns."""

    compute_stress = compute_forces = True
    memory_scales_with = "n_atoms"
    dtype, device = torch.float64, torch.device("cpu")

    def __init__(self, calculator) -> None:
        super().__init__()
        self.potential = AsePotential(calculator)

    def forward(self, state) -> dict[str, torch.Tensor]:
        made = self.potential.compute(
            state.atomic_numbers, state.positions, state.cell.mT.contiguous(), state.system_idx
        )
        return {"energy": made.energies, "forces": made.forces, "stress": made.stresses}


class TestTorchSim:
    @pytest.fixture
    def torch_sim(self, monkeypatch):
        """TorchSim's record of a batch, whether it is installed or not."""
        monkeypatch.setitem(sys.modules, "torch_sim", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "torch_sim.state", SimpleNamespace(SimState=SimpleNamespace))

    def test_a_model_of_its_interface(self, torch_sim):
        skewed = [distorted_salt(), distorted_salt() * (1, 2, 1)]
        calculator = LennardJones(sigma=2.6, epsilon=0.3, rc=8.0)
        potential = get_batched(LennardJonesModel(calculator))
        assert isinstance(potential, TorchSimPotential)
        assert potential.name == "lennardjones"
        assert_as_alone(potential, calculator, skewed, atol=1e-10)

    def test_one_that_a_factory_makes(self, torch_sim, monkeypatch):
        made = SimpleNamespace(make=lambda: LennardJonesModel(EMT()))
        monkeypatch.setitem(sys.modules, "mine", made)
        calculator = get_calculator("mine:make")
        assert isinstance(get_batched(calculator), TorchSimPotential)
        copper = rattled()
        copper.calc = calculator
        alone = rattled()
        alone.calc = EMT()
        assert copper.get_potential_energy() == pytest.approx(alone.get_potential_energy())

    def test_one_without_stress_or_forces(self, torch_sim):
        class WithoutStress(LennardJonesModel):
            compute_stress = False

            def forward(self, state):
                return {name: value for name, value in super().forward(state).items() if name != "stress"}

        found = get_batched(WithoutStress(EMT()))(*tensors_of(GOOD))
        assert found.errors == {}
        assert found.stresses.isnan().all()

        class WithoutForces(LennardJonesModel):
            compute_forces = False

        with pytest.raises(CalculatorError, match="compute_forces=True"):
            get_batched(WithoutForces(EMT()))

    @pytest.mark.parametrize(
        ("name", "extras"),
        [("sevennet", "torchsim,sevennet"), ("model", "torchsim"), ("own_factory_of_a_model:make", "torchsim")],
    )
    def test_what_to_install_is_told(self, monkeypatch, tmp_path, name, extras):
        (tmp_path / "own_factory_of_a_model.py").write_text("from torch_sim.models.mace import MaceModel\n")
        monkeypatch.syspath_prepend(tmp_path)
        for module in ("torch_sim", "torch_sim.state"):
            monkeypatch.setitem(sys.modules, module, None)
        given = LennardJonesModel(EMT()) if name == "model" else name
        with pytest.raises(CalculatorError, match=rf'pip install "deeprelax-ase\[{extras}\]"'):
            get_batched(given)

    @pytest.mark.slow
    def test_sevennet_is_what_its_own_calculator_says(self):
        pytest.importorskip("torch_sim")
        sevenn = pytest.importorskip("sevenn.calculator")
        own = sevenn.SevenNetCalculator("7net-0", device="cpu")
        potential = get_batched("sevennet", device="cpu")
        assert_as_alone(potential, own, [distorted_salt(), rattled(), bulk("MgO", "rocksalt", a=4.4)], atol=2e-5)
        unknown = potential(*tensors_of([bulk("Po", "sc", a=3.3), rattled()]))
        assert list(unknown.errors) == [0]
