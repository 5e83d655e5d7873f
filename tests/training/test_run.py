from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import write
from safetensors import safe_open
from safetensors.torch import load_file

from deeprelax_ase import Crystal, Predictor, load_model
from deeprelax_ase.data import LEVELS, load_pairs
from deeprelax_ase.errors import DeviceError
from deeprelax_ase.evaluation.metrics import prediction_errors
from deeprelax_ase.evaluation.pair_predictions import predict_pairs
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.model import model_of
from deeprelax_ase.nn import DeepRelax, DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.training import DataSettings, PairSettings, RunConfig, load_config, run_config, train_model
from deeprelax_ase.training.pairs import epoch_pairs, read_pairs
from deeprelax_ase.training.run import best_recycles, initial_weights, measure

ValuesOf = Callable[..., dict[str, Any]]
both = pytest.mark.parametrize("architecture", ["DeepRelaxE3", "DeepRelax"])


def model_from(config: RunConfig, **options) -> ModelCard:
    """The card of the model that a run ends with."""
    card = train_model(config, **options)
    assert card == config.out / f"{config.name}.json"
    return ModelCard.read(card)


# -- from pairs to a model


@pytest.mark.parametrize("architecture", ["DeepRelaxE3", pytest.param("DeepRelax", marks=pytest.mark.slow)])
def test_a_run_ends_with_a_model_that_predicts(values_of: ValuesOf, architecture: str, splits_file: Path) -> None:
    config = run_config(values_of(architecture, members=2, description="A tiny one.", licence="CC0-1.0"))
    told: list[tuple[int, int]] = []
    card = model_from(config, observe=lambda member, record: told.append((member, record["step"])))
    assert [member for member, _ in told] == sorted(member for member, _ in told)
    assert {member for member, _ in told} == {0, 1}

    model = load_model(config.out / "tiny.json")
    assert (card.name, card.architecture, card.members) == ("tiny", architecture, 2)
    assert model.config == config.network
    assert isinstance(model.networks[0], DeepRelaxE3 if architecture == "DeepRelaxE3" else DeepRelax)
    for m in range(2):
        file = config.out / f"member{m}" / "weights.safetensors"
        kept = load_file(file)
        assert {tensor.dtype for tensor in kept.values()} == {torch.float16}
        assert all(torch.equal(w, kept[name].float()) for name, w in model.networks[m].state_dict().items())
        with safe_open(file, "pt") as opened:
            assert opened.metadata()["seed"] == str(m)
    first, second = (dict(network.named_parameters()) for network in model.networks)
    assert not all(torch.equal(first[name], second[name]) for name in first)  # their seeds differ

    assert (card.elements, card.licence, card.description) == ([17, 55], "CC0-1.0", "A tiny one.")
    assert card.split == "train 12, validation 2, test 2"
    assert card.training_data == "12 pairs of pairs.npz"
    assert [member["steps"] for member in card.training["members"]] == [4, 4]
    assert all(member["best"]["error"] > 0 for member in card.training["members"])
    assert load_config(config.out / "config.yaml") == config

    pairs = load_pairs(splits_file).in_split("test")
    predicted = predict_pairs(model, pairs)
    assert (torch.linalg.det(predicted.cell) > 0).all()
    assert (predicted.uncertainty > 0).all()


@both
def test_the_card_tells_the_errors_on_the_test_split(values_of: ValuesOf, architecture: str, splits_file: Path) -> None:
    config = run_config(values_of(architecture))
    card = model_from(config)
    pairs = load_pairs(splits_file, dtype=torch.float32).in_split("test")
    predicted = predict_pairs(load_model(config.out / "tiny.json"), pairs)
    after = prediction_errors(pairs, predicted.fractional.float(), predicted.cell.float())
    before = prediction_errors(pairs, pairs.fractional_initial, pairs.cell_initial)
    test = card.metrics["test"]
    assert test.keys() == after.keys() | {f"unrelaxed {name}" for name in before}
    for name in after:
        assert test[name] == pytest.approx(after[name].mean().item(), rel=1e-4), name
        assert test[f"unrelaxed {name}"] == pytest.approx(before[name].mean().item(), rel=1e-5), name
    assert test["unrelaxed relative_volume"] == pytest.approx(0.95**-3 - 1, rel=1e-4)


def test_pairs_are_read_from_what_other_codes_write(values_of: ValuesOf, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for k, name in enumerate(("MgO", "CaO", "SrO", "NaCl", "LiF")):
        relaxed = bulk(name, "rocksalt", a=4.2 + 0.3 * k)
        unrelaxed = relaxed.copy()
        unrelaxed.set_cell(1.04 * relaxed.cell, scale_atoms=True)
        write(tmp_path / "runs" / f"{name}.traj", [unrelaxed, relaxed])
    given = {"data.sources": [str(tmp_path / "runs")], "data.fractions": [0.6, 0.2, 0.2], "data.level": "M3GNet"}
    card = model_from(run_config(values_of(**given, level_of_theory="a potential")))
    assert card.training_data == "3 pairs of runs"
    assert card.split == "train 3, validation 1, test 1"
    assert (card.level, card.level_of_theory) == ("M3GNet", "a potential")
    assert card.metrics["test"]["unrelaxed relative_volume"] == pytest.approx(1.04**3 - 1, rel=1e-3)


# -- in several calls


def test_a_finished_member_is_not_trained_again(values_of: ValuesOf) -> None:
    config = run_config(values_of(**{"data.validate": False}))
    model_from(config)
    logs = [config.out / f"member{m}" / "log.jsonl" for m in range(2)]
    weights = config.out / "member0" / "weights.safetensors"
    before = logs[0].read_text(), weights.read_bytes()
    card = model_from(replace(config, members=2))
    assert card.members == 2
    assert (logs[0].read_text(), weights.read_bytes()) == before
    told: list[int] = []
    again = model_from(replace(config, members=2), observe=lambda member, record: told.append(member))
    assert again == card
    assert not told


def test_a_time_limit_leaves_the_rest_to_the_next_call(values_of: ValuesOf, tmp_path: Path) -> None:
    config = run_config(values_of(members=2, **{"training.max_steps": 2}))
    expected = model_from(replace(config, out=tmp_path / "whole"))
    calls = 0
    while train_model(config, deadline=0) is None:  # a step each
        assert not (config.out / "tiny.json").exists()
        calls += 1
    assert calls == 4  # two steps each of two members
    assert ModelCard.read(config.out / "tiny.json").sha256 == expected.sha256


# -- validation, levels and recycles


def test_without_validation_the_last_average_is_the_model(values_of: ValuesOf) -> None:
    config = run_config(values_of(**{"data.validate": False}))
    card = model_from(config)
    assert all("best" not in member for member in card.training["members"])
    state = torch.load(config.out / "member0" / "checkpoint.ckpt", weights_only=True)["average"]
    (network,) = load_model(config.out / "tiny.json").networks
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, state[name].half().float()), name


def test_elements_that_the_network_has_no_place_for_are_refused(values_of: ValuesOf) -> None:
    config = run_config(values_of(**{"network.num_elements": 54}))
    with pytest.raises(ValueError, match=r"atomic number 55, the network knows those up to 54: leave these pairs out"):
        train_model(config)
    assert not config.out.exists()


def test_empty_splits_are_refused_before_anything_is_written(
    values_of: ValuesOf, pairs_file, pairs_of, tmp_path
) -> None:
    file = pairs_file(tmp_path / "all.npz", pairs_of(4), dft=np.ones(4, bool), split=np.zeros(4, np.uint8))
    config = run_config(values_of(**{"data.sources": str(file)}))
    with pytest.raises(ValueError, match=r"no validation pairs: give some"):
        train_model(config)
    assert not config.out.exists()
    card = model_from(replace(config, data=replace(config.data, validate=False)))
    assert card.metrics == {"test": {}}  # nor is there anything to test on
    assert card.recycles == 1


@pytest.mark.parametrize(
    ("labels", "level", "expected"),
    [
        (["relaxed"], "PBE", "PBE"),
        (["m3gnet"], "PBE", "M3GNet"),
        pytest.param(["relaxed"], "OAM", "OAM", marks=pytest.mark.slow),
    ],
)
def test_the_model_is_of_a_level_that_the_pairs_have(values_of: ValuesOf, labels, level: str, expected: str) -> None:
    card = model_from(run_config(values_of(**{"data.labels": labels, "data.level": level})))
    assert (card.level, card.level_of_theory) == (expected, expected)


def test_the_papers_network_knows_one_level_only(values_of: ValuesOf) -> None:
    card = model_from(run_config(values_of("DeepRelax", **{"data.level": "OAM"})))
    assert (card.level, card.level_of_theory, card.recycles) == ("", "OAM", 1)


@pytest.fixture
def shrinking() -> DeepRelaxE3:
    """A network that shrinks every crystal by 2.5 % in each pass: by 5 % in two of them."""
    network = DeepRelaxE3(DeepRelaxE3Config(channels=8, num_blocks=1, layers_per_block=1, num_basis=8))
    stages = network.stages

    def shrunk(given):
        for relaxation, x in stages(given):
            strain = np.log(0.975) * torch.eye(3).expand_as(relaxation.strain).to(relaxation.strain)
            yield replace(relaxation, strain=strain), x

    network.stages = shrunk  # type: ignore[method-assign]
    return network


def test_as_many_passes_as_are_best_on_the_validation_split(
    values_of: ValuesOf, pairs_of, shrinking: DeepRelaxE3
) -> None:
    pairs = pairs_of(4, dtype=torch.float32)
    model = model_of([shrinking], "shrinking", level="PBE")
    lattice = [measure(model, pairs, "cpu", recycles=n)["lattice"] for n in (1, 2, 3)]
    assert lattice[1] < 0.1 * lattice[0]
    assert best_recycles(model, pairs, "cpu") == 2
    once = replace(pairs, cell_relaxed=0.975 * pairs.cell_initial)
    assert best_recycles(model, once, "cpu") == 1
    thrice = replace(pairs, cell_relaxed=0.975**3 * pairs.cell_initial)
    assert best_recycles(model, thrice, "cpu") == 3
    assert best_recycles(model, pairs.take(torch.arange(0)), "cpu") == 1
    assert model_from(run_config(values_of(recycles=3))).recycles == 3  # unless they are given


def test_an_untrained_model_is_as_wrong_as_the_unrelaxed_crystals(pairs_of) -> None:
    pairs = pairs_of(5, dtype=torch.float32)
    config = DeepRelaxE3Config(channels=8, num_blocks=1, layers_per_block=1, num_basis=8)
    found = measure(model_of([DeepRelaxE3(config)], "none", level="PBE"), pairs, "cpu", recycles=2)
    for name in ("coordinates", "lattice", "volume"):
        assert found[name] == pytest.approx(found[f"unrelaxed {name}"], rel=1e-4), name
    assert (
        measure(model_of([DeepRelaxE3(config)], "none", level="PBE"), pairs.in_split("test"), "cpu", recycles=1) == {}
    )


# -- pairs


@pytest.fixture
def forces(splits_file: Path, tmp_path: Path) -> Path:
    """Forces in three of the training crystals whose minima under M3GNet are known; a little off their places."""
    rng, index = np.random.default_rng(0), [11, 3, 4]
    virial = rng.normal(size=(3, 3, 3)).astype(np.float32)
    with np.load(splits_file) as raw:
        atoms = np.concatenate([np.arange(raw["offsets"][k], raw["offsets"][k + 1]) for k in index])
        np.savez(
            tmp_path / "forces.npz",
            index=np.array(index),
            frac_initial=raw["frac_initial"][atoms] + 0.01,
            cell_initial=raw["cell_initial"][index],
            forces=rng.normal(size=(len(atoms), 3)).astype(np.float32),
            virial=virial + virial.transpose(0, 2, 1),
        )
    return tmp_path / "forces.npz"


def test_an_epoch_is_of_the_pairs_that_are_asked_for(splits_file: Path, forces: Path) -> None:
    data = DataSettings(
        (str(splits_file),), labels=("relaxed", "m3gnet"), choice=PairSettings(dft_copies=3, borrowed=0.5)
    )
    parts = read_pairs(data)
    assert [len(part) for part in parts] == [16, 13]
    assert {part.fractional_initial.dtype for part in parts} == {torch.float32}
    # 12 + 9 labelled by M3GNet + 2 further copies of 6 by DFT + half of the potential's 6 as DFT's
    pairs = epoch_pairs(data, parts)
    assert len(pairs) == 36
    assert not pairs.split.any()
    has_forces = epoch_pairs(replace(data, forces=(str(forces),)), parts)
    assert len(has_forces) == 39
    assert has_forces.has_forces.sum() == 3
    plain = epoch_pairs(DataSettings((str(splits_file),)), parts[:1])
    assert len(plain) == 12
    assert torch.bincount(plain.level, minlength=len(LEVELS)).tolist() == [6, 6, 0]


def test_a_network_learns_from_known_forces(values_of: ValuesOf, forces: Path) -> None:
    changes = {"network.reads_forces": True, "data.forces": [str(forces)], "data.labels": ["m3gnet", "relaxed"]}
    config = run_config(values_of(**changes, **{"training.hidden": 0.0, "training.max_steps": 8}))
    card = model_from(config)
    assert card.training_data == "24 pairs of pairs.npz"  # 12 + 9 + 3
    (network,) = load_model(config.out / "tiny.json").networks
    assert network.config.reads_forces
    assert network.forces.tensors.weight.any()
    assert json.loads((config.out / "member0" / "settings.json").read_text())["training"]["hidden"] == 0.0


# -- where a run starts and works


@pytest.mark.parametrize(
    ("architecture", "start"),
    [
        ("DeepRelaxE3", "model"),
        ("DeepRelax", "weights"),
        pytest.param("DeepRelaxE3", "weights", marks=pytest.mark.slow),
        pytest.param("DeepRelax", "model", marks=pytest.mark.slow),
    ],
)
def test_a_run_starts_from_another_one(values_of: ValuesOf, architecture: str, start: str, tmp_path: Path) -> None:
    first = run_config(values_of(architecture, members=2, out=str(tmp_path / "first"), **{"training.max_steps": 2}))
    model_from(first)
    file = first.out / "tiny.json" if start == "model" else first.out / "member1" / "weights.safetensors"
    changes = {"training.learning_rate": 0.0, "training.weight_decay": 0.0, "training.max_steps": 1}
    origins = [0, 1, 0] if start == "model" else [1]
    second = run_config(values_of(architecture, members=len(origins), initial=str(file), **changes))
    assert model_from(second).training["initial"] == str(file)
    before = [dict(network.named_parameters()) for network in load_model(first.out / "tiny.json").networks]
    for network, origin in zip(load_model(second.out / "tiny.json").networks, origins, strict=True):
        for name, weight in network.named_parameters():
            assert torch.equal(weight, before[origin][name]), name


def test_a_model_knows_the_elements_of_the_one_that_it_starts_from(values_of: ValuesOf, tmp_path: Path) -> None:
    first = run_config(values_of(out=str(tmp_path / "first")))
    card = model_from(first)
    replace(card, elements=[3, 17]).write(first.out / "tiny.json")
    changes = {"initial": str(first.out / "tiny.json"), "training.max_steps": 1}
    assert model_from(run_config(values_of(**changes))).elements == [3, 17, 55]


def test_a_model_of_another_shape_is_refused(values_of: ValuesOf, tmp_path: Path) -> None:
    first = run_config(values_of(out=str(tmp_path / "first"), **{"training.max_steps": 1}))
    model_from(first)
    other = {"network.channels": 4, "training.max_steps": 1}
    with pytest.raises(ValueError, match="tiny has another shape than the network of this run: leave out the section"):
        train_model(run_config(values_of(initial=str(first.out / "tiny.json"), **other)))
    member = str(first.out / "member0" / "weights.safetensors")
    with pytest.raises(ValueError, match="holds the weights of another network"):
        train_model(run_config(values_of(initial=member, **other)))
    left_out = values_of(initial=str(first.out / "tiny.json"))
    del left_out["network"]
    assert len(initial_weights(run_config(left_out))) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is available")
def test_cuda_where_there_is_none(values_of: ValuesOf) -> None:
    with pytest.raises(DeviceError, match=r"device 'cuda' is not available: .* Use 'auto', 'cpu', or a torch build"):
        train_model(run_config(values_of(device="cuda")))


def test_the_model_relaxes_a_crystal_like_those_that_it_has_seen(values_of: ValuesOf) -> None:
    still = dict.fromkeys(("interpolated", "relaxed", "perturbed", "strained", "rattled"), 0)
    learning = {"max_steps": 60, "atoms_per_batch": 100, "learning_rate": 1e-2, "average_decay": 0.9, "recycled": 0.0}
    learning["validate_every"] = 20.0
    config = run_config(values_of(training={**learning, "augmentation": still}, recycles=1))
    test = model_from(config).metrics["test"]
    assert test["relative_volume"] < 0.2 * test["unrelaxed relative_volume"]
    crystal = Crystal.of(bulk("CsCl", "cesiumchloride", a=3.6))
    result = Predictor(config.out / "tiny.json", device="cpu").predict(crystal)
    ratio = np.linalg.det(result.relaxed.cell) / np.linalg.det(crystal.cell)
    assert ratio == pytest.approx(0.95**3, abs=0.04)
