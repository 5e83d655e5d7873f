"""M3GNet in plain torch against MatGL with DGL, and against itself."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, graphene
from ase.data import chemical_symbols

from deeprelax_ase.calculators import M3GNet, get_calculator, load_m3gnet, m3gnet_edges, save_m3gnet
from deeprelax_ase.errors import CalculatorError
from tests.calculators.units import M3GNET, distorted_salt, needs_m3gnet, needs_weights

KNOWN = [number for number in range(1, 95) if not 84 <= number <= 88]


@pytest.fixture(scope="module")
def exact() -> M3GNet:
    return load_m3gnet(M3GNET).double()


def tensors(crystals: list[Atoms], dtype: torch.dtype = torch.float64):
    """Numbers, positions, cells and batch."""
    return (
        torch.tensor(np.concatenate([atoms.numbers for atoms in crystals])),
        torch.tensor(np.concatenate([atoms.positions for atoms in crystals]), dtype=dtype),
        torch.tensor(np.stack([atoms.cell.array for atoms in crystals]), dtype=dtype),
        torch.repeat_interleave(torch.tensor([len(atoms) for atoms in crystals])),
    )


def evaluate(network: M3GNet, crystals: list[Atoms], *, cutoff: float = 5.0):
    batch = tensors(crystals)
    return network(*batch, *m3gnet_edges(*batch[1:], cutoff=cutoff))


def molecules() -> Atoms:
    """A hydrogen molecule first, whose bonds make no angle, then water: MatGL counts such bonds in a way of its own."""
    positions = [[1, 1, 1], [1, 1, 1.8], [5.6, 5.5, 5], [5.6, 6.3, 5.6], [5.6, 4.7, 5.5]]
    return Atoms("HHOHH", positions=positions, cell=[9, 9.5, 10], pbc=True)


def crystals_of_all_kinds() -> list[Atoms]:
    rng = np.random.default_rng(1)

    def rattled(atoms: Atoms, length: float = 0.1) -> Atoms:
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.positions += length * rng.normal(size=atoms.positions.shape)
        return atoms

    pairs = zip(KNOWN[:45], rng.permutation(KNOWN[44:]), strict=True)
    every_element = [
        rattled(bulk(chemical_symbols[a] + chemical_symbols[b], "cesiumchloride", a=3.4 + 0.01 * a)) for a, b in pairs
    ]
    far_out = distorted_salt()  # not wrapped, and with atoms many cells away
    far_out.positions[::2] += far_out.cell.array[0] * 3 - far_out.cell.array[2]
    layer = rattled(graphene("C2", a=2.46, size=(2, 2, 1), vacuum=10.0))
    layer.pbc = True
    return [
        *every_element,
        bulk("Cu", "fcc", a=2.6),  # each atom has many images of itself
        rattled(bulk("Fe", "bcc", a=2.8)),
        bulk("Si", "diamond", a=5.43),
        bulk("MgO", "rocksalt", a=4.2, cubic=True),
        far_out,
        layer,
        molecules(),
        rattled(bulk("GaN", "wurtzite", a=3.2, c=5.2).repeat((5, 3, 1)), 0.2),
    ]


def of_matgl(crystals: list[Atoms]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Energies, forces and stresses in double precision: in single, MatGL's own forces are off by 2e-4 eV/Å."""
    calculator = get_calculator(str(M3GNET), dtype="float64")
    energies, forces, stresses = [], [], []
    for atoms in crystals:
        atoms = atoms.copy()
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
        stresses.append(atoms.get_stress(voigt=False))
    return np.array(energies), np.concatenate(forces), np.stack(stresses)


@pytest.fixture(scope="module")
def reference() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return of_matgl(crystals_of_all_kinds())


@needs_m3gnet
def test_it_is_matgl(exact, reference):
    energies, forces, stresses = reference
    assert np.abs(forces).max() > 5
    found = evaluate(exact, crystals_of_all_kinds())
    assert np.abs(found.energies.numpy() - energies).max() < 1e-5
    # The rest is that MatGL holds the norms of its functions in single precision.
    np.testing.assert_allclose(found.forces.numpy(), forces, atol=1e-5, rtol=2e-6)
    np.testing.assert_allclose(found.stresses.numpy(), stresses, atol=1e-6, rtol=2e-6)


@needs_m3gnet
def test_it_is_matgl_in_single_precision(reference):
    energies, forces, stresses = reference
    crystals = crystals_of_all_kinds()
    found = evaluate(load_m3gnet(M3GNET), crystals)
    sizes = np.array([len(atoms) for atoms in crystals])
    assert np.abs((found.energies.numpy() - energies) / sizes).max() < 1e-5
    np.testing.assert_allclose(found.forces.numpy(), forces, atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(found.stresses.numpy(), stresses, atol=1e-5, rtol=1e-5)


@needs_m3gnet
def test_edges_stand_as_matgl_lists_them():
    converter = get_calculator(str(M3GNET), dtype="float64").graph_converter
    for atoms in crystals_of_all_kinds():
        graph, _, _ = converter.get_graph(atoms)
        edge_index, offsets = m3gnet_edges(*tensors([atoms])[1:])
        centers, neighbors = graph.edges()
        np.testing.assert_array_equal(edge_index.numpy(), np.stack([neighbors.numpy(), centers.numpy()]))
        np.testing.assert_array_equal(offsets.numpy(), graph.edata["pbc_offset"].numpy())


@needs_weights
def test_forces_and_stresses_are_derivatives(exact):
    atoms = distorted_salt()
    numbers, positions, cells, batch = tensors([atoms])
    edges = m3gnet_edges(positions, cells, batch)
    generator = torch.Generator().manual_seed(3)
    direction = torch.randn(positions.shape, generator=generator, dtype=torch.float64)
    strain = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    strain = strain + strain.T

    def energy(displacement: float, deformation: float) -> torch.Tensor:
        deformed = torch.eye(3, dtype=torch.float64) + deformation * strain
        moved = (positions + displacement * direction) @ deformed
        return exact(numbers, moved, cells @ deformed, batch, *edges).energies[0]

    found, h = exact(numbers, positions, cells, batch, *edges), 1e-5
    work = -(found.forces * direction).sum()
    assert abs(work) > 0.1
    assert (energy(h, 0) - energy(-h, 0)) / (2 * h) == pytest.approx(float(work), rel=1e-6)
    pressure = atoms.get_volume() * (found.stresses[0] * strain).sum()
    assert abs(pressure) > 0.1
    assert (energy(0, h) - energy(0, -h)) / (2 * h) == pytest.approx(float(pressure), rel=1e-6)


@needs_weights
def test_a_batch_is_its_crystals_one_by_one(exact):
    crystals = [distorted_salt(), bulk("Cu", "fcc", a=3.5), molecules(), bulk("Si", "diamond", a=5.5), distorted_salt()]
    crystals.insert(1, Atoms("Ar", cell=[12, 12, 12], pbc=True))  # without a neighbour
    together = evaluate(exact, crystals)
    assert torch.isfinite(together.energies).all()
    alone = [evaluate(exact, [atoms]) for atoms in crystals]
    for name in together._fields:
        expected = torch.cat([getattr(found, name) for found in alone])
        torch.testing.assert_close(getattr(together, name), expected, atol=1e-9, rtol=0)


@needs_weights
def test_rotation_and_translation_change_nothing(exact):
    numbers, positions, cells, batch = tensors([distorted_salt(), molecules()])
    edges = m3gnet_edges(positions, cells, batch)
    found = exact(numbers, positions, cells, batch, *edges)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    turned = exact(numbers, positions @ rotation + 7.0, cells @ rotation, batch, *edges)
    torch.testing.assert_close(turned.energies, found.energies, atol=1e-9, rtol=0)
    torch.testing.assert_close(turned.forces, found.forces @ rotation, atol=1e-9, rtol=0)
    torch.testing.assert_close(turned.stresses, rotation.T @ found.stresses @ rotation, atol=1e-9, rtol=0)


@needs_m3gnet
def test_permuted_atoms_change_it_as_they_change_matgl(exact):
    """Neither is invariant: angles depend on the order of the edges, see the module on three-body sums."""
    rng = np.random.default_rng(4)
    salt = distorted_salt()
    crystals = [salt[rng.permutation(len(salt))] for _ in range(4)]
    energies, _, _ = of_matgl(crystals)
    assert 1e-7 < np.ptp(energies) / len(salt) < 5e-5
    np.testing.assert_allclose(evaluate(exact, crystals).energies.numpy(), energies, atol=2e-6)


@needs_weights
def test_a_longer_list_serves_while_atoms_move(exact):
    crystals = [distorted_salt(), bulk("Cu", "fcc", a=2.6), molecules()]
    for longer in (5.6, 7.0):
        for found, expected in zip(evaluate(exact, crystals, cutoff=longer), evaluate(exact, crystals), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    numbers, positions, cells, batch = tensors([distorted_salt()])
    moved = positions + 0.2 * torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]] * 4)
    found = exact(numbers, moved, cells, batch, *m3gnet_edges(positions, cells, batch, cutoff=5.5))
    expected = exact(numbers, moved, cells, batch, *m3gnet_edges(moved, cells, batch))
    torch.testing.assert_close(found.energies, expected.energies, atol=4e-4, rtol=0)  # the order is another
    torch.testing.assert_close(found.forces, expected.forces, atol=1e-3, rtol=0)


@needs_weights
def test_an_unknown_element_spoils_its_crystal_alone(exact):
    polonium = distorted_salt()
    polonium.numbers[3] = 84
    found = evaluate(exact, [distorted_salt(), polonium, distorted_salt()])
    assert found.energies.isnan().tolist() == [False, True, False]
    assert found.forces.isnan().any(dim=1).view(3, 8).all(dim=1).tolist() == [False, True, False]
    torch.testing.assert_close(found.energies[0], found.energies[2])


@needs_weights
def test_results_come_in_the_precision_of_the_positions():
    network = load_m3gnet(M3GNET)
    for dtype in (torch.float32, torch.float64):
        batch = tensors([distorted_salt()], dtype)
        found = network(*batch, *m3gnet_edges(*batch[1:]))
        assert {value.dtype for value in found} == {dtype}


@needs_weights
def test_nothing_waits_for_the_device():
    """Tensors on torch's meta device have no values: whoever asks for one fails."""
    batch = tensors([distorted_salt(), molecules()])
    inputs = [tensor.to("meta") for tensor in (*batch, *m3gnet_edges(*batch[1:]))]
    found = load_m3gnet(M3GNET).to("meta")(*inputs)
    assert [tuple(value.shape) for value in found] == [(2,), (13, 3), (2, 3, 3)]


@needs_weights
def test_saved_as_one_file(tmp_path):
    save_m3gnet(M3GNET, tmp_path / "m3gnet.safetensors")
    crystals = [distorted_salt()]
    found = evaluate(load_m3gnet(tmp_path / "m3gnet.safetensors"), crystals)
    for value, expected in zip(found, evaluate(load_m3gnet(M3GNET), crystals), strict=True):
        assert torch.equal(value, expected)


@pytest.mark.slow  # test_matgl_versions computes without MatGL in this process
@needs_weights
def test_loading_needs_neither_ase_nor_matgl(tmp_path):
    file = tmp_path / "m3gnet.safetensors"
    save_m3gnet(M3GNET, file)
    code = f"""
import sys
from deeprelax_ase.calculators import load_m3gnet
load_m3gnet({str(file)!r})
print(sorted({{name.split(".")[0] for name in sys.modules}} & {{"ase", "dgl", "matgl", "pymatgen"}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_no_m3gnet(tmp_path):
    with pytest.raises(CalculatorError, match="Give the folder of M3GNet"):
        load_m3gnet(tmp_path)
    with pytest.raises(CalculatorError, match=r"absent.safetensors holds no M3GNet"):
        load_m3gnet(tmp_path / "absent.safetensors")
    card = {"kwargs": {"model": {"@class": "TensorNet", "init_args": {}}}}
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(CalculatorError, match="holds a TensorNet, not an M3GNet"):
        load_m3gnet(tmp_path)


@needs_weights
def test_another_architecture(tmp_path):
    card = json.loads((M3GNET / "model.json").read_text())
    card["kwargs"]["model"]["init_args"]["use_phi"] = True
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(CalculatorError, match=r"another architecture \(use_phi True\): use MatGL for it"):
        load_m3gnet(tmp_path)
