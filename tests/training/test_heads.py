"""The energy of the relaxed crystal, learnt with the network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.evaluation.pair_predictions import predict_pairs
from deeprelax_ase.models.loading import load_model, sha256
from deeprelax_ase.nn import DeepRelaxE3
from deeprelax_ase.training import train_model
from deeprelax_ase.training.config import ConfigError, run_config
from deeprelax_ase.training.e3_task import flat_tensors
from deeprelax_ase.training.heads import WithHeads, element_energies, with_told_energies, without_heads
from deeprelax_ase.training.padding import Sizes, pad
from tests.pairs import make_pairs
from tests.training.e3_runs import CONFIG, QUICK, gradients, task_on, trained
from tests.training.runs import PairsOf, records

LEARNS = replace(QUICK, energy_weight=1.0)


def as_slabs(pairs: RelaxationPairs, which: torch.Tensor) -> RelaxationPairs:
    """The ``which`` crystals (G,) with 30 Å of vacuum along the third axis."""
    scale = torch.where(which, 10.0, 1.0).to(pairs.cell_initial)
    cells = {
        f"cell_{s}": torch.cat(
            [getattr(pairs, f"cell_{s}")[:, :2], getattr(pairs, f"cell_{s}")[:, 2:] * scale[:, None, None]], 1
        )
        for s in ("initial", "relaxed")
    }
    shrink = torch.ones(len(pairs), 3).to(scale)
    shrink[:, 2] /= scale
    moved = {f"fractional_{s}": getattr(pairs, f"fractional_{s}") * shrink[pairs.batch] for s in ("initial", "relaxed")}
    return replace(pairs, **cells, **moved)


def test_energies_count_where_they_are_known_and_a_model_tells_them(pairs_of: PairsOf) -> None:
    which = torch.arange(8)
    pairs = as_slabs(pairs_of(8), which == 2)
    energies = torch.where(which == 5, torch.nan, pairs.energy_relaxed)
    pairs = replace(pairs, fixed_cell=(which == 2) | (which == 3), energy_relaxed=energies)
    told = with_told_energies(pairs).energy_relaxed
    assert told.isfinite().tolist() == [
        True,
        True,
        True,
        False,
        True,
        False,
        True,
        True,
    ]  # a slab's is, a bulk's is not
    assert torch.equal(told[told.isfinite()], energies[told.isfinite()])
    truth = task_on(pairs, CONFIG, energy_weight=1.0).prepare(which).truth
    assert torch.equal(truth.energies > 0, told.isfinite())
    assert torch.equal(truth.energy, told.nan_to_num(0.0))


def test_they_teach_the_head_and_all_blocks_or_nothing(pairs_of: PairsOf) -> None:
    pairs = pairs_of(8)
    some = replace(pairs, energy_relaxed=torch.where(torch.arange(8) == 0, pairs.energy_relaxed, torch.nan))
    taught, other = (gradients(task_on(given, CONFIG, energy_weight=1.0)) for given in (pairs, some))
    for part in ("energy.first", "elements", "blocks.0", "blocks.1"):
        name = next(n for n in taught if n.startswith(part))
        assert not torch.equal(taught[name], other[name]), name
    plain = gradients(task_on(pairs, CONFIG))
    assert not any(name.startswith("energy.") for name in plain)


def test_a_network_learns_energies(pairs_of: PairsOf) -> None:
    pairs = replace(pairs_of(8), energy_relaxed=-4 + 0.3 * torch.arange(8).double())
    task, everything = task_on(pairs, CONFIG, energy_weight=1.0), torch.arange(8)
    optimizer = torch.optim.Adam(task.network.parameters(), lr=1e-2)
    errors = []
    for _ in range(50):
        errors.append(task.gradients(everything, everything)["energy"].item())
        optimizer.step()
    assert errors[-1] < 0.4 * errors[0]
    told = task.validate(task.network, pairs)
    of_cell = task.settings.volume_weight * told["volume"] + task.settings.shape_weight * told["shape"]
    assert told["energy"].item() < 0.4 * errors[0]
    torch.testing.assert_close(told["error"], told["displacement"] + of_cell + told["energy"])


def test_elements_begin_with_their_mean_energies() -> None:
    pairs = make_pairs(8)  # Cs and Cl, one to one
    pairs = replace(pairs, numbers=torch.where(pairs.batch == 7, 17, pairs.numbers))
    pairs = replace(pairs, energy_relaxed=torch.where(torch.arange(8) == 7, -1.0, -2.5).double())
    found = element_energies(pairs, 60)
    assert found[17].item() == pytest.approx(-1.0, abs=1e-5)
    assert found[55].item() == pytest.approx(-4.0, abs=1e-5)
    assert (found.abs() > 1e-5).sum() == 2
    unknown = replace(pairs, energy_relaxed=torch.full_like(pairs.energy_relaxed, torch.nan))
    with pytest.raises(ValueError, match="no pair tells the energy of its relaxed crystal"):
        element_energies(unknown, 60)


def test_padded_batches_have_the_same_losses(pairs_of: PairsOf) -> None:
    pairs = pairs_of(6)
    task = task_on(pairs, CONFIG, energy_weight=1.0, elastic_weight=0.5)
    batch = task.prepare(torch.arange(6))
    losses, _, _ = task.learn(batch.given, batch.truth)
    expected = {name: p.grad.clone() for name, p in task.network.named_parameters() if p.grad is not None}
    padded = pad(batch.given, batch.truth, Sizes.around([Sizes.of(batch.given)]))
    *again, _, _ = task.graph_step(flat_tensors(*padded))
    torch.testing.assert_close(torch.stack(again), torch.stack(list(losses.values())))
    for name, p in task.network.named_parameters():
        if name in expected:
            torch.testing.assert_close(p.grad, expected[name], rtol=1e-6, atol=1e-9, msg=name)


def test_the_head_stays_with_the_network_that_it_was_learnt_with(pairs_of: PairsOf, tmp_path: Path) -> None:
    pairs = pairs_of(12, dtype=torch.float32)
    network = trained(pairs, CONFIG, replace(LEARNS, force_targets=0.1), tmp_path)
    assert isinstance(network, WithHeads)
    assert network.energy is not None
    assert network.force_targets is None
    assert type(without_heads(network)) is DeepRelaxE3
    assert records(tmp_path)[0]["gradient_norm"]["energy"] > 0
    assert records(tmp_path)[0]["energy"] > 0


@pytest.fixture
def energies_run(values_of, splits_file: Path):
    import numpy as np

    with np.load(splits_file) as raw:
        arrays = dict(raw)
    np.savez(splits_file, **arrays, energy_relaxed=-3 + 0.1 * np.arange(16, dtype=np.float32))
    return lambda **changes: run_config(
        values_of(**{"training.energy_weight": 1.0, "data.potential": "some potential", "recycles": 1, **changes})
    )


def test_a_run_leaves_a_model_that_tells_energies(energies_run, tmp_path: Path) -> None:
    first = load_model(train_model(energies_run()))
    told = first.card.energy
    assert told["potential"] == "some potential"
    assert told["weights"] == first.card.sha256 == sha256(tmp_path / "run" / "tiny.safetensors")
    assert told["crystals"] == 2
    pairs = make_pairs(16, dtype=torch.float32)
    energies = predict_pairs(first, pairs, recycles=1).energies
    assert energies.isfinite().all()
    # and a later run goes on from there: a rate of zero leaves everything as it was
    again = energies_run(initial=str(tmp_path / "run" / "tiny.json"), out=str(tmp_path / "more"))
    still = replace(again, training=replace(again.training, learning_rate=0.0))
    second = load_model(train_model(still))
    torch.testing.assert_close(predict_pairs(second, pairs, recycles=1).energies, energies, rtol=0, atol=2e-3)
    # of the weights that it learnt, a share is that of the first ones
    quick = replace(again.training, learning_rate=0.05)
    learnt = replace(again, training=quick, data=replace(again.data, validate=False), out=tmp_path / "learnt")
    mixed = replace(learnt, initial_share=0.25, out=tmp_path / "mixed")
    ends = [load_model(train_model(run)) for run in (learnt, mixed)]
    for at in (lambda model: model.networks[0].elements.weight, lambda model: model.energy.first.weight):
        torch.testing.assert_close(at(ends[1]), at(first).lerp(at(ends[0]), 0.75), rtol=0, atol=4e-3)
        assert not torch.allclose(at(ends[1]), at(ends[0]), rtol=0, atol=4e-3)
    # one that learns no energies takes the weights alone
    plain = replace(still, out=tmp_path / "plain", training=replace(still.training, energy_weight=0.0))
    assert load_model(train_model(plain)).energy is None


def test_what_a_run_lacks_is_told_before_it_begins(energies_run, values_of) -> None:
    with pytest.raises(ConfigError, match=r"needs data\.potential"):
        energies_run(**{"data.potential": ""})
    with pytest.raises(ConfigError, match="initial_share must be at least 0 and below 1, and 0 without initial"):
        run_config(values_of(initial_share=0.5))
    for weight in ("energy_weight", "elastic_weight"):
        with pytest.raises(ConfigError, match=f"{weight} is for the end-to-end network"):
            run_config(values_of("DeepRelax", **{f"training.{weight}": 1.0, "data.potential": "some potential"}))


def test_bounds_need_validation_pairs_with_energies(values_of) -> None:
    config = run_config(values_of(**{"training.energy_weight": 1.0, "data.potential": "some potential"}))
    with pytest.raises(ValueError, match="no validation pair tells the energy"):
        train_model(config)
