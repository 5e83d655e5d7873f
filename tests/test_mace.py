"""MACE in batches and one by one, of a model that is made here: ``pip install mace-torch torch-sim-atomistic``.

Slow, and in an environment of its own, as MACE needs an older e3nn than SevenNet.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import write

from deeprelax_ase.calculators import get_batched, get_calculator, potential_name
from deeprelax_ase.data import PairDataset
from deeprelax_ase.labelling import LabelOptions, label
from deeprelax_ase.screening import RelaxOptions, relax_many
from tests.calculators.batches import tensors_of

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of MACE, of its e3nn and of TorchSim
    pytest.mark.skipif(importlib.util.find_spec("mace") is None, reason="needs MACE"),
    pytest.mark.skipif(importlib.util.find_spec("torch_sim") is None, reason="needs TorchSim"),
]


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A small network with random weights, which pushes near atoms apart."""
    import mace.tools  # noqa: F401, before e3nn
    from e3nn import o3
    from mace import modules

    torch.manual_seed(0)
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    shape = {"r_max": 4.5, "num_bessel": 4, "num_polynomial_cutoff": 5, "max_ell": 2, "num_interactions": 2}
    made = modules.ScaleShiftMACE(
        **shape,
        interaction_cls=block,
        interaction_cls_first=block,
        num_elements=3,
        hidden_irreps=o3.Irreps("8x0e + 8x1o"),
        MLP_irreps=o3.Irreps("8x0e"),
        atomic_energies=np.array([-1.0, -2.0, -3.0]),
        avg_num_neighbors=20,
        atomic_numbers=[8, 12, 29],
        correlation=2,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=20.0,
        atomic_inter_shift=0.0,
        pair_repulsion=True,
        distance_transform="Agnesi",
    )
    saved = tmp_path_factory.mktemp("mace") / "made.model"
    torch.save(made.double(), saved)
    return saved


@pytest.fixture
def factories(file, monkeypatch) -> dict[str, str]:
    """Both doors by name: the example's, and MACE's own calculator."""
    monkeypatch.setenv("MACE_MODEL", str(file))
    monkeypatch.syspath_prepend(ROOT / "examples")
    own = file.parent / "mace_alone.py"
    own.write_text(
        "import os\nfrom mace.calculators import MACECalculator\n\n\n"
        "def make(device='cpu'):\n"
        "    return MACECalculator(model_paths=os.environ['MACE_MODEL'], device=device, default_dtype='float64')\n"
    )
    monkeypatch.syspath_prepend(file.parent)
    return {"batches": "mace_potential:in_batches", "alone": "mace_alone:make"}


def crystals() -> list[Atoms]:
    made = [bulk("MgO", "rocksalt", a=4.0 + 0.1 * n) * (1, 1, n) for n in (1, 2)] + [bulk("Cu", "fcc", a=3.7)]
    for seed, atoms in enumerate(made):
        atoms.rattle(0.1, seed=seed)
    return made


def test_both_doors_give_the_same_and_have_one_name(factories):
    batched, alone = (get_calculator(name, device="cpu") for name in factories.values())
    assert potential_name(batched).split()[-1] == potential_name(alone).split()[-1]
    found = get_batched(batched)(*tensors_of(crystals()))
    assert found.errors == {}
    for number, atoms in enumerate(crystals()):
        atoms.calc = alone
        assert float(found.energies[number]) == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        assert found.stresses[number].numpy() == pytest.approx(atoms.get_stress(voigt=False), abs=1e-9)
    forces = torch.cat([torch.from_numpy(alone.get_forces(atoms)) for atoms in crystals()])
    torch.testing.assert_close(found.forces, forces, atol=1e-9, rtol=0)


@pytest.mark.parametrize("door", ["batches", "alone"])
def test_it_labels_and_screens_and_names_elements_that_it_lacks(factories, door, tmp_path):
    given = [*crystals()[::2], bulk("NaCl", "rocksalt", a=5.6)]
    write(tmp_path / "given.extxyz", given)
    options = LabelOptions(factories[door], device="cpu", fmax=0.2, steps=40)
    report = label([tmp_path / "given.extxyz"], tmp_path / "labelled", options, workers=0, fractions=(1, 0, 0))
    assert report.counts["labelled"] >= 1
    assert any("does not know Cl, Na" in status for status in report.counts)
    learnt = PairDataset.read([tmp_path / "labelled"])
    assert len(learnt.pairs) == report.counts["labelled"]
    rows = list(
        relax_many(given, RelaxOptions(calculator=factories[door], finish="fast", steps=15, device="cpu"), workers=0)
    )
    assert [row.status == "failed" for row in rows] == [False, False, True]
    assert min(row.energy for row in rows[:2]) < 0
