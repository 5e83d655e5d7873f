from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry.quantities import RelaxationQuantities
from deeprelax_ase.graph import CrystalGraph, build_graph
from deeprelax_ase.uncertainty.ensemble import UncertaintyParts, ensemble_mean, ensemble_uncertainty

LEVELS = ["crystals", "atoms", "distances", "displacements"]


@pytest.fixture(scope="module")
def graph(sample_crystals: dict[str, Crystal]) -> CrystalGraph:
    return build_graph(list(sample_crystals.values()))


def ensemble(graph: CrystalGraph, members: int, seed: int = 0) -> RelaxationQuantities:
    generator = torch.Generator().manual_seed(seed)
    pairs = int(graph.in_cell.sum())

    def random(*shape: int) -> Tensor:
        return torch.rand(members, *shape, generator=generator, dtype=torch.float64)

    return RelaxationQuantities(
        distances=3 + random(graph.num_edges),
        distance_scales=0.2 * random(graph.num_edges),
        displacements=random(pairs),
        displacement_scales=0.1 * random(pairs),
        cell=5 * random(graph.num_crystals, 3, 3),
        anchors=random(graph.num_atoms, 3),
    )


def plain_uncertainty(values: list[list[float]], scales: list[list[float]]) -> tuple[float, float]:
    """Equations (21)-(23) as they are printed; one list of T members per distance pair."""
    aleatoric = epistemic = 0.0
    for pair_values, pair_scales in zip(values, scales, strict=True):
        members = len(pair_values)
        mean = sum(pair_values) / members
        aleatoric += sum(pair_scales) / members
        epistemic += sum((value - mean) ** 2 for value in pair_values) / members
    return (aleatoric / len(values)) ** 2, epistemic / len(values)


def distance_pairs(graph: CrystalGraph, quantities: RelaxationQuantities):
    """(kind, number, source, destination, values, scales) of every distance and displacement."""
    edges = graph.edge_index.T.tolist()
    in_cell = [edge for edge, inside in zip(edges, graph.in_cell.tolist(), strict=True) if inside]
    for kind, ends in (("distances", edges), ("displacements", in_cell)):
        values = getattr(quantities, kind).T.tolist()
        scales = getattr(quantities, kind[:-1] + "_scales").T.tolist()
        for number, ((source, destination), value, scale) in enumerate(zip(ends, values, scales, strict=True)):
            yield kind, number, source, destination, value, scale


def assert_parts(parts: UncertaintyParts, index: int, chosen: list[tuple]) -> None:
    aleatoric, epistemic = plain_uncertainty([c[4] for c in chosen], [c[5] for c in chosen])
    assert parts.aleatoric[index].item() == pytest.approx(aleatoric, rel=1e-12)
    assert parts.epistemic[index].item() == pytest.approx(epistemic, rel=1e-12)
    assert parts.total[index].item() == pytest.approx(aleatoric + epistemic, rel=1e-12)  # eq. (24)


def test_crystals_follow_the_equations(graph: CrystalGraph):
    quantities = ensemble(graph, 5)
    uncertainty, pairs = ensemble_uncertainty(quantities, graph), list(distance_pairs(graph, quantities))
    assert uncertainty.crystals.total.shape == (graph.num_crystals,)
    for crystal in range(graph.num_crystals):
        assert_parts(uncertainty.crystals, crystal, [p for p in pairs if graph.batch[p[3]] == crystal])


def test_atoms_count_what_they_take_part_in_once(graph: CrystalGraph):
    quantities = ensemble(graph, 3)
    uncertainty, pairs = ensemble_uncertainty(quantities, graph), list(distance_pairs(graph, quantities))
    assert any(p[2] == p[3] for p in pairs)  # an atom and its own image
    assert uncertainty.atoms.total.shape == (graph.num_atoms,)
    for atom in range(graph.num_atoms):
        assert_parts(uncertainty.atoms, atom, [p for p in pairs if atom in (p[2], p[3])])


def test_edges_and_pairs_stand_for_themselves(graph: CrystalGraph):
    quantities = ensemble(graph, 4)
    uncertainty = ensemble_uncertainty(quantities, graph)
    assert uncertainty.distances.total.shape == (graph.num_edges,)
    assert uncertainty.displacements.total.shape == (int(graph.in_cell.sum()),)
    for pair in distance_pairs(graph, quantities):
        assert_parts(getattr(uncertainty, pair[0]), pair[1], [pair])


def test_a_batch_is_as_its_crystals_alone(sample_crystals: dict[str, Crystal]):
    alone = [build_graph([c]) for c in sample_crystals.values()]
    together = build_graph(list(sample_crystals.values()))
    parts = [ensemble(graph, 2, seed=seed) for seed, graph in enumerate(alone)]
    joined = RelaxationQuantities(
        **{f.name: torch.cat([getattr(p, f.name) for p in parts], dim=1) for f in fields(RelaxationQuantities)}
    )
    batch = ensemble_uncertainty(joined, together)
    singles = [ensemble_uncertainty(q, g) for q, g in zip(parts, alone, strict=True)]
    for level in LEVELS:
        expected = torch.cat([getattr(s, level).total for s in singles])
        torch.testing.assert_close(getattr(batch, level).total, expected, rtol=1e-12, atol=0)


def test_a_single_member_has_no_epistemic_uncertainty(graph: CrystalGraph):
    uncertainty = ensemble_uncertainty(ensemble(graph, 1), graph)
    for level in LEVELS:
        assert not getattr(uncertainty, level).epistemic.any()
        assert (getattr(uncertainty, level).aleatoric > 0).all()


def test_members_without_scales_leave_the_disagreement(graph: CrystalGraph):
    quantities = ensemble(graph, 3)
    bare = replace(
        quantities,
        distance_scales=torch.zeros_like(quantities.distance_scales),
        displacement_scales=torch.zeros_like(quantities.displacement_scales),
    )
    uncertainty = ensemble_uncertainty(bare, graph)
    assert not uncertainty.crystals.aleatoric.any()
    assert torch.equal(uncertainty.crystals.total, ensemble_uncertainty(quantities, graph).crystals.epistemic)


def test_the_mean_is_over_members(graph: CrystalGraph):
    quantities = ensemble(graph, 5)
    mean = ensemble_mean(quantities)
    for f in fields(quantities):
        members = getattr(quantities, f.name)
        torch.testing.assert_close(getattr(mean, f.name), sum(members.unbind()) / 5, rtol=1e-12, atol=0)


def test_the_mean_of_one_member_is_that_member(graph: CrystalGraph):
    quantities = ensemble(graph, 1)
    mean = ensemble_mean(quantities)
    for f in fields(quantities):
        assert torch.equal(getattr(mean, f.name), getattr(quantities, f.name)[0])


def test_quantities_without_a_member_axis_are_refused(graph: CrystalGraph):
    quantities = ensemble_mean(ensemble(graph, 2))
    with pytest.raises(ValueError, match="no member axis"):
        ensemble_mean(quantities)
    with pytest.raises(ValueError, match="no member axis"):
        ensemble_uncertainty(quantities, graph)
