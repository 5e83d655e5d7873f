"""What a calculator is called: by its weights, never by its class."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from torch import nn

from deeprelax_ase.calculators import (
    M3GNET_POTENTIAL,
    get_batched,
    get_calculator,
    load_m3gnet,
    potential_name,
    weights_digest,
)
from deeprelax_ase.calculators.identity import M3GNET_WEIGHTS, digest_of
from deeprelax_ase.optimizers.cached_calculator import CachedCalculator
from tests.calculators.batches import tensors_of
from tests.calculators.units import M3GNET, needs_newer, needs_weights


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))


def of_torch_sim(network: nn.Module) -> nn.Module:
    """A model of TorchSim's interface that computes with ``network``."""
    model = nn.Module()
    model.model, model.memory_scales_with = network, "n_atoms"
    return model


def calculator(**holding: object) -> EMT:
    made = EMT()
    vars(made).update(holding)
    return made


@pytest.mark.parametrize("which", [None, EMT(), calculator(model="gpt", models=[], potential=None)])
def test_calculators_without_weights(which):
    assert weights_digest(which) is None
    assert potential_name(which) is None


@pytest.mark.parametrize(
    "holding",
    [
        {"potential": network()},
        {"model": network()},
        {"models": [network()]},
        {"potential": SimpleNamespace(network=network())},
        {"calculator": calculator(model=network())},
        {"model": network().double()},
        {"potential": SimpleNamespace(model=of_torch_sim(network()))},
    ],
)
def test_it_is_the_same_wherever_they_are_kept_and_in_whatever_precision(holding):
    assert weights_digest(calculator(**holding)) == digest_of(network().state_dict())


def test_models_of_plain_numbers_have_none():
    assert weights_digest(calculator(model=nn.Sequential(nn.Tanh()))) is None


def test_weights_that_are_changed_past_the_count_of_changes_have_another():
    changed = calculator(model=network())
    before = weights_digest(changed)
    for parameter in changed.model.parameters():
        parameter.data.mul_(1.01)
    assert weights_digest(changed) not in (before, None)


def test_other_weights_have_another():
    digests = {
        weights_digest(calculator(**holding))
        for holding in (
            {"model": network()},
            {"model": network(1)},
            {"models": [network(), network(1)]},
            {"models": [network(1), network()]},
            {"model": nn.Sequential(nn.Linear(3, 4))},
        )
    }
    assert len(digests) == 5


def test_order_and_what_versions_derive_do_not_count():
    state = network().state_dict()
    turned = dict(reversed(state.items())) | {"rbf.cutoff": torch.tensor(5.0), "element_refs.onehot": torch.eye(3)}
    assert digest_of(turned) == digest_of(state)
    assert digest_of({f"_orig_mod.{name}": tensor for name, tensor in state.items()}) == digest_of(state)
    assert digest_of(state, "others") != digest_of(state)


def test_it_is_computed_once_and_again_when_weights_change(monkeypatch):
    counted = []
    real = digest_of
    monkeypatch.setattr(
        "deeprelax_ase.calculators.identity.digest_of", lambda *given: counted.append(1) or real(*given)
    )
    which = calculator(model=network())
    first = weights_digest(which)
    assert weights_digest(which) == weights_digest(calculator(model=which.model)) == first
    assert len(counted) == 1
    with torch.no_grad():
        which.model[0].weight += 1
    assert weights_digest(which) != first
    which.model.load_state_dict(network().state_dict())
    assert weights_digest(which) == first


def test_networks_are_not_kept_alive():
    which = calculator(model=network())
    weights_digest(which)
    gone = __import__("weakref").ref(which.model)
    del which
    gc.collect()
    assert gone() is None


def test_weights_made_for_inference_have_one():
    with torch.inference_mode():
        made = network()
    assert weights_digest(calculator(model=made)) == digest_of(network().state_dict())


def test_one_of_your_own_says_it():
    which = calculator(weights_digest=M3GNET_WEIGHTS)
    assert potential_name(which) == M3GNET_POTENTIAL
    atoms = bulk("Cu")
    atoms.calc = which
    assert potential_name(CachedCalculator(atoms)) == M3GNET_POTENTIAL


def test_unknown_ones_are_called_by_the_beginning_of_their_digest():
    which = calculator(model=network())
    assert potential_name(which) == f"emt {weights_digest(which)[:12]}"


@needs_weights
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_m3gnet(dtype):
    assert weights_digest(get_calculator(f"m3gnet:{M3GNET}", dtype=dtype)) == M3GNET_WEIGHTS
    assert load_m3gnet(M3GNET).weights_digest == M3GNET_WEIGHTS


@needs_newer
@needs_weights
@pytest.mark.filterwarnings("ignore")
def test_the_same_weights_in_a_newer_matgl_are_another_potential():
    """It loads them without a word, and finds other energies."""
    import matgl
    from matgl.ext.ase import PESCalculator

    theirs = PESCalculator(matgl.load_model(str(M3GNET)), stress_unit="eV/A3", use_voigt=True)
    salt = bulk("NaCl", "rocksalt", a=5.64)
    salt.calc = theirs
    energy = salt.get_potential_energy()
    salt.calc = get_calculator(f"m3gnet:{M3GNET}")
    assert abs(energy - salt.get_potential_energy()) > 1
    assert weights_digest(theirs) != M3GNET_WEIGHTS
    assert potential_name(theirs) == f"pescalculator {weights_digest(theirs)[:12]}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "called"), [("0.3.0", "CHGNet 0.3.0"), ("r2scan", "CHGNet r2SCAN")])
def test_chgnet(name, called):
    model = pytest.importorskip("chgnet.model").CHGNet.load(model_name=name, verbose=False)
    from chgnet.model.dynamics import CHGNetCalculator

    assert potential_name(CHGNetCalculator(model, use_device="cpu")) == called


@pytest.mark.parametrize("holder", ["model", "models"])
def test_elements_that_a_calculator_tells_are_all_that_it_is_asked_for(holder):
    told = network()
    told.register_buffer("atomic_numbers", torch.tensor([13, 29]))
    potential = get_batched(calculator(**{holder: [told] if holder == "models" else told}))
    assert potential.elements == {13, 29}
    found = potential(*tensors_of([bulk("Au", "fcc", a=4.1), bulk("Cu", "fcc", a=3.7)]))
    assert found.errors == {0: "emt does not know Au. Choose another calculator."}
    assert found.energies[1].isfinite()
