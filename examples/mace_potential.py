"""MACE as a calculator by name, in batches through TorchSim: its file is the one that ``MACE_MODEL`` names.

In the repository's folder:

    pip install mace-torch torch-sim-atomistic
    export PYTHONPATH=examples MACE_MODEL=path/to/mace.model
    deeprelax screen candidates/*.cif --calculator mace_potential:in_batches --finish fast --out screened

``--calculator mace.calculators:mace_mp`` downloads its weights and computes crystals one by one.
"""

from __future__ import annotations

import os
from typing import Any

import mace  # noqa: F401, first: it lets e3nn load its tables
import torch
from torch_sim.models.mace import MaceModel


def in_batches(device: str = "cuda" if torch.cuda.is_available() else "cpu") -> Any:
    """A model of TorchSim's. MACE stores whole networks with pickle: take the file from people you trust."""
    if "MACE_MODEL" not in os.environ:
        raise ValueError("set MACE_MODEL to the file of a MACE network")
    network = torch.load(os.environ["MACE_MODEL"], map_location=device, weights_only=False)
    return MaceModel(network, device=torch.device(device), dtype=torch.float64)
