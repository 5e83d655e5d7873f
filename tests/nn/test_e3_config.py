from __future__ import annotations

import json

import pytest

from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config


def test_configuration_survives_json() -> None:
    config = DeepRelaxE3Config(channels=24, tensor_messages=False, levels=("PBE", "M3GNet"))
    read = DeepRelaxE3Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert read == config
    assert hash(read) == hash(config)  # levels come back as a tuple
    assert DeepRelaxE3Config.from_dict({}) == DeepRelaxE3Config()


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['max_in_cell', 'num_layers'\].*another deeprelax_ase version"):
        DeepRelaxE3Config.from_dict({"channels": 8, "num_layers": 3, "max_in_cell": 20})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("channels", 0),
        ("channels", 2.5),
        ("num_blocks", 0),
        ("layers_per_block", 0),
        ("num_basis", 1),
        ("num_elements", 0),
        ("cutoff", 0.0),
        ("cutoff", float("nan")),
        ("max_neighbors", 0),
        ("max_neighbors", 1.5),
        ("levels", ()),
    ],
)
def test_bad_settings_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        DeepRelaxE3Config(**{name: value})  # type: ignore[arg-type]


def test_the_graph_does_not_tell_the_own_cell_from_the_others() -> None:
    graph = DeepRelaxE3Config(cutoff=5.0, max_neighbors=12).graph
    assert (graph.cutoff, graph.max_neighbors, graph.max_in_cell) == (5.0, 12, 0)


def test_the_network_has_the_shape_asked_for() -> None:
    config = DeepRelaxE3Config(
        channels=6, num_blocks=3, layers_per_block=1, num_basis=7, num_elements=20, levels=("PBE", "OAM")
    )
    network = DeepRelaxE3(config)
    assert network.elements.weight.shape == (21, 6)  # by atomic number
    assert network.levels.weight.shape == (2, 6)
    assert [len(block.filters) for block in network.blocks] == [1, 1, 1]
    assert network.blocks[0].filters[0].weight.shape == (5 * 6, 7)
    # Files of weights are read by these names.
    assert {name.split(".")[0] for name in network.state_dict()} == {"elements", "levels", "blocks"}
