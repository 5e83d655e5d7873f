"""The paper's own network, small and untrained: what turns with the crystal, and what does not."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from deeprelax_ase.geometry.quantities import RelaxationQuantities
from deeprelax_ase.graph import CrystalGraph, build_graph
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.model import Model
from deeprelax_ase.nn import DeepRelax
from deeprelax_ase.nn.config import ABLATIONS
from deeprelax_ase.prediction.predictor import Predictor
from tests.crystals import CRYSTALS, DISTORTED, assert_same, rotation


@pytest.fixture(scope="module")
def paper() -> Predictor:
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
    return Predictor(Model(card, networks), device="cpu", dtype="float64", keep_symmetry=False)


def stacked(predictor: Predictor, graph: CrystalGraph) -> RelaxationQuantities:
    """What the networks predict, along a leading member axis."""
    members = [network(graph) for network in predictor.model.networks]
    return RelaxationQuantities(
        **{f.name: torch.stack([getattr(m, f.name) for m in members]) for f in fields(RelaxationQuantities)}
    )


@pytest.mark.parametrize("name", DISTORTED)
class TestPaper:
    def graphs(self, paper: Predictor, name: str):
        crystal, turn = CRYSTALS[name], rotation(6)
        turned = crystal.with_geometry(crystal.positions @ turn, crystal.cell @ turn)
        graphs = [build_graph([c], settings=paper.model.config.graph) for c in (crystal, turned)]
        return crystal, turned, graphs, turn

    def test_distances_do_not_turn(self, paper: Predictor, name: str):
        still, turned = (stacked(paper, graph) for graph in self.graphs(paper, name)[2])
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
