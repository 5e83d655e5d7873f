"""What tells novelty, on numbers that are made for it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from deeprelax_ase.uncertainty.novelty import KNOWN, Novelty, fit_novelty

CHANNELS, ATOMS = 6, 4


def atoms_of(seed: int, crystals: int, *, shift: float = 0.0, shifted: int = ATOMS) -> tuple[torch.Tensor, ...]:
    """Scalars of crystals of four atoms, two elements each; the first ``shifted`` atoms lie off along one direction."""
    generator = torch.Generator().manual_seed(seed)
    scalars = torch.randn(crystals, ATOMS, CHANNELS, generator=generator)
    scalars[:, ::2] += 5.0  # of the other element
    scalars[:, :shifted, 1] += shift
    numbers = torch.tensor([8, 12]).repeat(crystals * ATOMS // 2)
    return scalars.flatten(0, 1), numbers, torch.repeat_interleave(torch.arange(crystals), ATOMS)


@cache
def fitted(*, shift: float = 4.0, shifted: int = ATOMS, seed: int = 0) -> Novelty:
    """Fitted to 300 crystals and 100 outliers of that ``shift``, limited by 300 more."""
    known, strange = atoms_of(1, 300), atoms_of(2, 100, shift=shift, shifted=shifted)
    scalars, numbers = (torch.cat(pair) for pair in zip(known[:2], strange[:2], strict=True))
    batch = torch.repeat_interleave(torch.arange(400), ATOMS)
    made = fit_novelty(scalars, numbers, batch, torch.arange(400) >= 300, seed=seed)
    return made.limited(made.logits(*atoms_of(3, 300), 300))


@pytest.mark.parametrize("shifted", [ATOMS, 1], ids=["all atoms", "one atom"])
def test_outliers_lie_beyond_the_limit_and_others_within(shifted: int):
    novelty = fitted() if shifted == ATOMS else fitted(shifted=shifted)  # of which one is made once
    assert (novelty.of(*atoms_of(5, 200, shift=4.0, shifted=shifted), 200) > 1).double().mean() > 0.85
    assert (novelty.of(*atoms_of(6, 200), 200) > 1).double().mean() < 0.06


def test_the_limit_is_kept_by_the_share_of_ordinary_crystals():
    ordinary = atoms_of(3, 300)
    assert (fitted().of(*ordinary, 300) <= 1).double().mean() == pytest.approx(KNOWN, abs=1 / 300)


def test_the_fit_reproduces_depends_on_its_seed_and_leaves_the_generator_of_others_alone(monkeypatch):
    monkeypatch.setattr("deeprelax_ase.uncertainty.novelty._STEPS", 20)
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    one, again, other = (fitted.__wrapped__(seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, again.tensors()[name])
    assert not torch.equal(one.weight, other.weight)


def test_copies_of_a_crystal_are_as_novel_and_a_batch_is_its_parts():
    novelty = fitted()
    scalars, numbers, batch = atoms_of(7, 5, shift=1.0)
    expected = novelty.of(scalars, numbers, batch, 5)
    twice = novelty.of(scalars.repeat(2, 1), numbers.repeat(2), batch.repeat(2), 5)
    torch.testing.assert_close(twice, expected)
    for k in range(5):
        mine = batch == k
        torch.testing.assert_close(novelty.of(scalars[mine], numbers[mine], batch[mine] - k, 1), expected[k : k + 1])


def test_novelty_is_finite_however_strange():
    scalars, numbers, batch = atoms_of(8, 3, shift=1e6)
    assert torch.isfinite(fitted().of(scalars, numbers, batch, 3)).all()


def test_elements_that_were_not_seen_have_the_mean_of_all():
    novelty = fitted()
    scalars, numbers, batch = atoms_of(9, 2)
    elsewhere = novelty.of(scalars, torch.full_like(numbers, 92), batch, 2)
    assert torch.isfinite(elsewhere).all()
    assert not torch.allclose(elsewhere, novelty.of(scalars, numbers, batch, 2))


def test_tensors_round_trip_in_single_precision():
    novelty = fitted()
    again = Novelty.from_tensors({name: tensor.double() for name, tensor in novelty.tensors().items()})
    for name, tensor in novelty.tensors().items():
        assert again.tensors()[name].dtype == torch.float32
        assert torch.equal(tensor, again.tensors()[name])


def test_other_tensors_are_refused():
    whole = fitted().tensors()
    short = {name: tensor for name, tensor in whole.items() if name != "bias"}
    for wrong in (short, whole | {"readout": whole["readout"][1:]}, whole | {"more": whole["limit"]}):
        with pytest.raises(ValueError, match="tell no novelty"):
            Novelty.from_tensors(wrong)


@pytest.mark.parametrize("all_", [True, False])
def test_a_fit_needs_both_kinds(all_: bool):
    scalars, numbers, batch = atoms_of(1, 4)
    with pytest.raises(ValueError, match="needs both kinds"):
        fit_novelty(scalars, numbers, batch, torch.full((4,), all_))


def test_a_higher_limit_makes_less_novel():
    novelty = fitted()
    atoms = atoms_of(7, 5, shift=1.0)
    higher = replace(novelty, limit=novelty.limit + 1)
    assert (higher.of(*atoms, 5) < novelty.of(*atoms, 5)).all()
