"""Models of TorchSim's as potentials in batches: MACE, SevenNet, MatterSim, ORB, Nequix and others by one adapter."""

from __future__ import annotations

from typing import Any

import torch

from deeprelax_ase.calculators.batched import BatchedPotential
from deeprelax_ase.calculators.identity import elements_of
from deeprelax_ase.calculators.m3gnet_torch import EnergiesForcesStresses
from deeprelax_ase.calculators.scope import quiet, torch_settings
from deeprelax_ase.errors import CalculatorError
from deeprelax_ase.graph.shapes import Batch, Cells, Numbers, Positions

#: Commands that bring TorchSim, and SevenNet with it.
INSTALL, _INSTALL_SEVENNET = (f'pip install "deeprelax-ase[{extras}]"' for extras in ("torchsim", "torchsim,sevennet"))


class TorchSimPotential(BatchedPotential):
    """A ``ModelInterface`` of TorchSim's, from version 0.3 on.

    Args:
        model: made by whoever knows its weights, on its device and in its precision.
        name: for results; by default that of its class.
        elements: atomic numbers that it knows. By default what the model tells of itself, if it does.

    Raises:
        CalculatorError: torch-sim-atomistic is not installed, or the model has no forces.
    """

    def __init__(self, model: Any, *, name: str | None = None, elements: frozenset[int] | None = None) -> None:
        self._state = _sim_state()
        if not getattr(model, "compute_forces", True):
            raise CalculatorError(f"{type(model).__name__} computes no forces: make it with compute_forces=True")
        self.model, self.device = model, torch.empty(0, device=model.device).device
        self.name = name or type(model).__name__.lower().removesuffix("model") or "torchsim"
        self.has_stress = bool(model.compute_stress)
        self.elements = elements_of(model) if elements is None else elements

    def compute(self, numbers: Numbers, positions: Positions, cells: Cells, batch: Batch) -> EnergiesForcesStresses:
        """Compute a batch, see :class:`~deeprelax_ase.calculators.batched.BatchedPotential`."""
        with torch_settings(torch.float32):
            made = self.model(self.state(numbers, positions, cells, batch))
        stresses = made.get("stress")
        if stresses is None:
            stresses = torch.full_like(cells, torch.nan)
        return EnergiesForcesStresses(made["energy"].reshape(-1), made["forces"], stresses.reshape(-1, 3, 3))

    def state(self, numbers: Numbers, positions: Positions, cells: Cells, batch: Batch) -> Any:
        """TorchSim's own record of a batch, in the model's precision."""
        dtype = self.model.dtype
        return self._state(
            positions=positions.to(dtype),
            masses=torch.ones(len(numbers), dtype=dtype, device=self.device),
            cell=cells.to(dtype).mT.contiguous(),  # lattice vectors in columns
            pbc=True,
            atomic_numbers=numbers,
            system_idx=batch,
        )


def is_torch_sim_model(given: Any) -> bool:
    """Whether ``given`` has the interface of TorchSim's models; asks without importing TorchSim."""
    return isinstance(given, torch.nn.Module) and all(
        hasattr(given, name) for name in ("compute_stress", "compute_forces", "memory_scales_with", "dtype", "device")
    )


def sevennet(name: str = "", *, device: str = "auto", modal: str | None = None) -> TorchSimPotential:
    """SevenNet, whose weights come with its package, through TorchSim.

    Args:
        name: of the weights, as SevenNet's ``pretrained_name_to_path`` takes it, or their file; ``7net-0`` by default.
        device: where it computes.
        modal: of weights for several levels of theory.

    Raises:
        CalculatorError: SevenNet, TorchSim or the weights are missing.
    """
    from deeprelax_ase.prediction.devices import device_of

    _sim_state(_INSTALL_SEVENNET)
    where = device_of(device)
    try:
        with quiet():
            from sevenn.util import load_checkpoint

            try:
                from sevenn.torchsim import SevenNetModel  # its own, from SevenNet 0.12 and TorchSim 0.6 on
            except ImportError:
                from torch_sim.models.sevennet import SevenNetModel
    except ImportError as error:
        told = f"SevenNet is not installed, or not the one for this TorchSim ({error})"
        raise CalculatorError(f"{told}: {_INSTALL_SEVENNET}") from error
    try:
        with quiet(), torch_settings(torch.float32):
            network = load_checkpoint(name or "7net-0").build_model()
            model = SevenNetModel(network, device=where, modal=modal)
    except Exception as error:  # whatever SevenNet says of a name or a file
        raise CalculatorError(f"SevenNet has no weights {name!r} ({type(error).__name__}: {error})") from error
    return TorchSimPotential(model, name="sevennet")


def _sim_state(install: str = INSTALL) -> Any:
    """Import TorchSim's record of a batch; where it is missing, the error says how to ``install`` it."""
    try:
        with quiet():
            from torch_sim.state import SimState
    except ImportError as error:
        raise CalculatorError(f"This potential needs TorchSim, which is not installed ({error}): {install}") from error
    return SimState
