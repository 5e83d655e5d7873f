"""The end-to-end network reads forces and stress where they are known, and stays what it is where they are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from ase.build import make_supercell
from torch import Tensor

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.nn.deeprelax_e3 import network_input, no_forces
from deeprelax_ase.nn.e3_layers import SIZES, ForceReader
from deeprelax_ase.nn.harmonics import TENSOR, VECTOR
from deeprelax_ase.nn.records import KnownForces, Relaxation
from tests.relaxations import PER_ATOM, assert_same

NAMES = ("triclinic", "rocksalt", "hcp", "thin", "skewed", "one atom", "left-handed")
every_crystal = pytest.mark.parametrize("name", NAMES)


def known_of(counts: Sequence[int], *, seed: int = 0, has_forces: Sequence[bool] | None = None) -> KnownForces:
    """Random forces and virials, of some eV/Å and some eV an atom; known for all crystals, or the ``informed`` ones."""
    generator = torch.Generator().manual_seed(seed)
    atoms, crystals = sum(counts), len(counts)
    virial = torch.randn(crystals, 3, 3, generator=generator, dtype=torch.float64)
    return KnownForces(
        forces=torch.randn(atoms, 3, generator=generator, dtype=torch.float64),
        virial=(virial + virial.mT) * torch.tensor(counts)[:, None, None],
        has_forces=torch.ones(crystals, dtype=torch.bool) if has_forces is None else torch.tensor(has_forces),
    )


def turned(known: KnownForces, isometry: Tensor) -> KnownForces:
    return known._replace(forces=known.forces @ isometry, virial=isometry.T @ known.virial @ isometry)


def difference(a: list[Relaxation], b: list[Relaxation]) -> float:
    """The largest one of the last blocks' displacements and strains."""
    pairs = [(getattr(a[-1], name), getattr(b[-1], name)) for name in ("displacements", "strain")]
    return max((one - other).abs().max().item() for one, other in pairs)


@pytest.fixture(scope="module")
def network(e3_network) -> DeepRelaxE3:
    return e3_network(reads_forces=True)


@pytest.fixture(scope="module")
def relax(network: DeepRelaxE3, graph_of) -> Callable[..., list[Relaxation]]:
    """``relax(crystals, known, network)``: the relaxation after each block of a random network that reads forces."""

    def run(crystals, known: KnownForces | None = None, other: DeepRelaxE3 | None = None) -> list[Relaxation]:
        chosen = other or network
        return chosen.refine(network_input(graph_of(crystals, chosen.config), 0, known))

    return run


# -- the switch


def test_networks_do_not_read_forces_unless_told(e3_network, relax, sample_crystals) -> None:
    crystal = sample_crystals["triclinic"]
    plain = e3_network()
    assert plain.forces is None
    assert not DeepRelaxE3Config().reads_forces
    assert_same(relax(crystal, known_of([4]), plain), relax(crystal, None, plain), atol=0)
    config = replace(plain.config, reads_forces=True)
    assert DeepRelaxE3Config.from_dict(config.to_dict()) == config
    added = set(DeepRelaxE3(config).state_dict()) - set(plain.state_dict())
    assert {name.partition(".")[0] for name in added} == {"forces"}
    older = {name: value for name, value in plain.config.to_dict().items() if name != "reads_forces"}
    assert DeepRelaxE3Config.from_dict(older) == plain.config  # cards of models that knew of no forces


def test_an_untrained_reader_changes_nothing(e3_network, relax, sample_crystals) -> None:
    plain = e3_network()
    reading = DeepRelaxE3(replace(plain.config, reads_forces=True)).double()
    reading.load_state_dict({**reading.state_dict(), **plain.state_dict()})
    crystals = [sample_crystals[name] for name in NAMES]
    known = known_of([len(crystal) for crystal in crystals])
    assert_same(relax(crystals, known, reading), relax(crystals, None, plain), atol=0)
    assert known.has_forces.all()


def test_without_a_calculator_no_forces_are_known(network, graph_of, sample_crystals) -> None:
    crystals = [sample_crystals["triclinic"], sample_crystals["hcp"]]
    graph = graph_of(crystals, network.config)
    none = no_forces(graph.positions, graph.cell)
    for known in (none, network_input(graph, 0).known):
        assert known.forces.shape == (6, 3)
        assert known.virial.shape == (2, 3, 3)
        assert known.has_forces.tolist() == [False, False]
        assert known.forces.dtype == known.virial.dtype == torch.float64
        assert not known.forces.any()
        assert not known.virial.any()
    given = known_of([4, 2])
    assert network_input(graph, 0, given).known is given


# -- E(3), with crystal, forces and virial together


@every_crystal
def test_the_relaxation_turns_with_crystal_forces_and_virial(relax, sample_crystals, isometry, name: str) -> None:
    crystal, known = sample_crystals[name], known_of([len(sample_crystals[name])])
    expected = relax(crystal, known)
    q = isometry.numpy()
    after = crystal.with_geometry(crystal.positions @ q, crystal.cell @ q)
    assert_same(relax(after, turned(known, isometry)), expected, isometry=isometry)
    assert difference(expected, relax(crystal)) > 1e-3  # the forces do tell


def test_atom_order_does_not_matter(relax, sample_crystals) -> None:
    crystal, known, order = sample_crystals["triclinic"], known_of([4]), [2, 0, 3, 1]
    permuted = Crystal(crystal.numbers[order], crystal.positions[order], crystal.cell)
    expected = relax(crystal, known)
    assert_same(relax(permuted, known._replace(forces=known.forces[order])), expected, atoms=order)
    assert difference(relax(crystal, known._replace(forces=known.forces[order])), expected) > 1e-3


@every_crystal
def test_origin_and_periodic_images_do_not_matter(relax, sample_crystals, rng, name: str) -> None:
    crystal, known = sample_crystals[name], known_of([len(sample_crystals[name])])
    jumps = rng.integers(-3, 4, size=(len(crystal), 3)) @ crystal.cell
    shifted = crystal.with_geometry(crystal.positions + jumps + np.array([1.234, -7.1, 20.3]), crystal.cell)
    assert_same(relax(shifted, known), relax(crystal, known))


@every_crystal
@pytest.mark.parametrize(
    "supercell",
    [
        pytest.param(np.diag([2, 1, 1]), marks=pytest.mark.slow),
        pytest.param(np.diag([2, 2, 2]), marks=pytest.mark.slow),
        [[1, 1, 0], [0, 2, 0], [0, -1, 1]],
    ],
    ids=["211", "222", "hnf"],
)
def test_forces_repeat_in_a_supercell_and_the_virial_grows_with_it(
    relax, sample_crystals, name: str, supercell
) -> None:
    crystal, known = sample_crystals[name], known_of([len(sample_crystals[name])])
    big = Crystal.from_atoms(make_supercell(crystal.to_atoms(), supercell, order="atom-major"))
    copies = len(big) // len(crystal)
    of = torch.arange(len(big)) // copies
    repeated = known._replace(forces=known.forces[of], virial=copies * known.virial)
    expected = relax(crystal, known)
    assert_same(relax(big, repeated), expected, atoms=of)
    stress = relax(big, repeated._replace(virial=known.virial))[-1].strain
    assert (stress - expected[-1].strain).abs().max() > 1e-4


@every_crystal
@pytest.mark.parametrize(
    "basis",
    [
        [[1, 0, 0], [2, 1, 0], [-1, 3, 1]],
        pytest.param([[0, 1, 0], [0, 0, 1], [1, 0, 0]], marks=pytest.mark.slow),
        pytest.param([[-1, 0, 0], [0, 1, 0], [0, 0, 1]], marks=pytest.mark.slow),
    ],
    ids=["sheared", "permuted", "inverted"],
)
def test_another_basis_of_the_same_lattice_changes_nothing(relax, sample_crystals, name: str, basis) -> None:
    crystal, known = sample_crystals[name], known_of([len(sample_crystals[name])])
    other = crystal.with_geometry(crystal.positions, np.array(basis) @ crystal.cell)
    assert_same(relax(other, known), relax(crystal, known))


def test_a_force_moves_an_atom_that_symmetry_would_fix_along_itself(relax, sample_crystals) -> None:
    known = known_of([8])
    force = torch.zeros(8, 3, dtype=torch.float64)
    force[3, 2] = 0.3
    pushed = known._replace(forces=force, virial=torch.zeros_like(known.virial))
    moves = relax(sample_crystals["rocksalt"], pushed)[-1].displacements
    assert moves[3, :2].abs().max() < 1e-12
    assert moves[3, 2].abs() > 1e-4
    still = relax(sample_crystals["rocksalt"], pushed._replace(forces=torch.zeros_like(force)))[-1].displacements
    assert still.abs().max() < 1e-12


# -- crystals with and without known forces in one batch


def test_a_batch_gives_what_single_crystals_give(relax, sample_crystals) -> None:
    crystals = list(sample_crystals.values())
    counts = [len(crystal) for crystal in crystals]
    known = known_of(counts, has_forces=[g % 3 != 1 for g in range(len(crystals))])
    parts = zip(known.forces.split(counts), known.virial.split(1), known.has_forces.split(1), strict=True)
    alone = [relax(crystal, KnownForces(*part)) for crystal, part in zip(crystals, parts, strict=True)]
    joined = [
        Relaxation(*(torch.cat([getattr(r, f.name) for r in block]) for f in fields(Relaxation)))
        for block in zip(*alone, strict=True)
    ]
    assert_same(relax(crystals, known), joined, atol=1e-11)


def test_what_stands_in_the_place_of_unknown_forces_does_not_matter(relax, sample_crystals) -> None:
    crystals = [sample_crystals[name] for name in ("triclinic", "hcp", "thin")]
    told = known_of([4, 2, 3], has_forces=[False, True, False])
    others = torch.tensor([0, 1, 2, 3, 6, 7, 8])
    forces, virial = told.forces.clone(), told.virial.clone()
    forces[others] *= -1e3
    virial[[0, 2]] *= -1e3
    found, nothing = relax(crystals, told), relax(crystals)
    assert_same(relax(crystals, KnownForces(forces, virial, told.has_forces)), found, atol=0)
    for after, before in zip(found, nothing, strict=True):
        for f in fields(Relaxation):
            untold = others if f.name in PER_ATOM else [0, 2]
            a, b = getattr(after, f.name), getattr(before, f.name)
            torch.testing.assert_close(a[untold], b[untold], rtol=0, atol=1e-12, msg=f.name)
    assert (found[-1].strain[1] - nothing[-1].strain[1]).abs().max() > 1e-3


# -- the reader


COUNTS = [4, 2]
BATCH = torch.tensor([0, 0, 0, 0, 1, 1])


@pytest.fixture(scope="module")
def reader(shuffled) -> ForceReader:
    return shuffled(ForceReader(8), spread=1.5)


def read(reader: ForceReader, known: KnownForces) -> tuple[Tensor, Tensor]:
    return reader(known, BATCH, torch.tensor(COUNTS))


def fractional(known: KnownForces, factor: float) -> KnownForces:
    return known._replace(forces=factor * known.forces, virial=factor * known.virial)


def test_a_new_reader_says_nothing() -> None:
    x, h = read(ForceReader(8).double(), known_of(COUNTS))
    assert x.shape == (6, 8)
    assert h.shape == (6, 8, 8)
    assert not x.any()
    assert not h.any()


def test_every_weight_of_the_reader_takes_part(network, relax, sample_crystals) -> None:
    network.zero_grad()
    relaxations = relax(sample_crystals["triclinic"], known_of([4]))
    torch.stack([getattr(r, f.name).square().sum() for r in relaxations for f in fields(r)]).sum().backward()
    assert len(list(network.forces.parameters())) == 6
    for name, parameter in network.forces.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_small_forces_enter_linearly(reader: ForceReader) -> None:
    tiny = 1e-6 * min(SIZES)
    known = known_of(COUNTS)
    rest, nothing = read(reader, fractional(known, 0.0))
    assert not nothing.any()
    (x, h), (twice_x, twice_h) = (read(reader, fractional(known, factor)) for factor in (tiny, 2 * tiny))
    for once, twice in ((x - rest, twice_x - rest), (h, twice_h)):
        torch.testing.assert_close(twice, 2 * once, rtol=0, atol=1e-4 * once.abs().max().item())
        assert once.abs().max() > tiny


def test_opposite_forces_give_opposite_features_and_pressure_has_a_sign(reader: ForceReader) -> None:
    known = known_of(COUNTS)
    (x, h), (other_x, other_h) = read(reader, known), read(reader, fractional(known, -1.0))
    assert torch.equal(other_h, -h)
    assert (other_x - x).abs().min() > 1e-3
    pushed = known._replace(forces=-known.forces)
    assert torch.equal(read(reader, pushed)[0], x)  # of forces the scalars see the lengths alone
    stronger = known._replace(forces=2 * known.forces)
    assert (read(reader, stronger)[0] - x).abs().max(dim=1).values.min() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_forces_give_bounded_features(reader: ForceReader, shuffled, dtype: torch.dtype) -> None:
    known, made = known_of(COUNTS), shuffled(ForceReader(8), spread=1.5).to(dtype)
    (x, h), (more_x, more_h) = (read(made, fractional(known, factor)) for factor in (1e8, 1e30))
    for values, more in ((x, more_x), (h, more_h)):
        assert values.dtype == dtype
        assert more.isfinite().all()
        torch.testing.assert_close(more, values, rtol=1e-5, atol=1e-5)  # they point the same way
    bound = made.vectors.weight.abs().sum(dim=1).max()
    assert more_h[:, VECTOR].norm(dim=1).max() <= 1.001 * bound
    (more_x.square().sum() + more_h.square().sum()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in made.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_forces_keep_their_direction(shuffled, dtype: torch.dtype) -> None:
    """Their squares are beyond single precision; next to them others are read as ever."""
    made, known = shuffled(ForceReader(8), spread=1.5).to(dtype), known_of(COUNTS)
    factors = torch.tensor([1e30, 1.0, -1e30, 1e-30, 1.0, 1e30], dtype=torch.float64)
    vectors = read(made, known._replace(forces=factors[:, None] * known.forces))[1][:, VECTOR].double()
    towards = torch.nn.functional.normalize(known.forces, dim=1)[:, :, None]
    along = (vectors * towards).sum(dim=1, keepdim=True)
    torch.testing.assert_close(vectors, along * towards, rtol=0, atol=1e-6)
    full = made.vectors.weight.sum(dim=1).double()  # every size has reached its bound
    for atom, sign in {0: 1, 2: -1, 5: 1}.items():
        torch.testing.assert_close(along[atom, 0], sign * full, rtol=1e-5, atol=1e-6)
    assert along[3].abs().max() < 1e-20
    alone = read(made, known)[1][:, VECTOR].double()
    torch.testing.assert_close(vectors[[1, 4]], alone[[1, 4]], rtol=0, atol=1e-6)
    assert along[[1, 4]].abs().max() > 0.1


def test_pressure_is_no_shear(reader: ForceReader) -> None:
    known = known_of(COUNTS)
    still = known._replace(forces=torch.zeros_like(known.forces))
    pressure = torch.eye(3, dtype=torch.float64) * torch.tensor([2.0, -3.0]).double()[:, None, None]
    x, h = read(reader, still._replace(virial=pressure))
    rest, _ = read(reader, still._replace(virial=torch.zeros_like(pressure)))
    assert not h.any()
    assert (x - rest).abs().max(dim=1).values.min() > 1e-3
    shear = still.virial - still.virial.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None] * torch.eye(3)
    of_shear, sheared = read(reader, still._replace(virial=shear))
    assert (of_shear - rest).abs().max(dim=1).values.min() > 1e-3
    assert not sheared[:, VECTOR].any()
    assert sheared[:, TENSOR].abs().max() > 1e-3
    _, both = read(reader, still._replace(virial=shear + pressure))
    torch.testing.assert_close(both, sheared, rtol=0, atol=1e-12)


def test_the_virial_counts_by_the_atom(reader: ForceReader) -> None:
    virial = known_of([1, 1]).virial[:1]
    still = known_of(COUNTS)._replace(forces=torch.zeros(6, 3, dtype=torch.float64))
    x, h = read(reader, still._replace(virial=virial * torch.tensor(COUNTS)[:, None, None]))
    for values in (x, h):
        torch.testing.assert_close(values, values[:1].expand_as(values), rtol=0, atol=1e-13)


def test_the_geometry_keeps_its_own_type(network, relax, sample_crystals) -> None:
    crystal, known = sample_crystals["triclinic"], known_of([4])
    single = DeepRelaxE3(network.config)
    single.load_state_dict(network.state_dict())
    rounded, exact = relax(crystal, known, single), relax(crystal, known)
    assert all(getattr(r, f.name).dtype == torch.float64 for r in rounded for f in fields(r))
    assert_same(rounded, exact, atol=1e-4)
