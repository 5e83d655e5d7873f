"""The door to potentials in batches: from a name, an ASE calculator or a model of TorchSim's."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers
from ase.units import GPa

from deeprelax_ase.calculators.batched import BatchedPotential
from deeprelax_ase.calculators.m3gnet_torch import M3GNet
from deeprelax_ase.calculators.m3gnet_weights import load_m3gnet
from deeprelax_ase.calculators.potentials import M3GNET_POTENTIAL, M3GNET_VARIABLE
from deeprelax_ase.calculators.registry import get_calculator
from deeprelax_ase.calculators.torch_sim import TorchSimPotential, is_torch_sim_model
from deeprelax_ase.errors import CalculatorError
from deeprelax_ase.graph.matgl_import import runs_on_dgl


def get_batched(potential: Any, *, device: str = "auto", **kwargs: Any) -> BatchedPotential:
    """The batched form of a potential: many crystals in one call, on CPU or GPU.

    ======================  ==========================================================================================
    ``m3gnet``              M3GNet-MP-2021.2.8-PES in plain torch; without MatGL and DGL where ``DEEPRELAX_M3GNET`` or
                            ``m3gnet:FOLDER`` names its folder. Other models of MatGL's are computed one by one
    ``chgnet``              CHGNet, its graphs made in batches too, on a GPU as on a CPU; ``chgnet:0.2.0`` one by one
    ``sevennet``            SevenNet through TorchSim; ``sevennet:NAME`` takes other weights of its package, or a file
    ``module:factory``      a model of TorchSim's ``ModelInterface`` (MACE, MatterSim, ORB, Nequix, fairchem ...)
    others                  any calculator of :func:`~deeprelax_ase.calculators.get_calculator`, one crystal after the
                            other, so that whoever relaxes in batches takes them all
    ======================  ==========================================================================================

    Args:
        potential: one of these names; an ASE calculator; a model of TorchSim's; or what this returned.
        device: for those that are named: ``"auto"``, ``"cpu"`` or ``"cuda"``; a factory is told if it has a parameter
            ``device``.
        **kwargs: of :func:`~deeprelax_ase.calculators.get_calculator`, for names.

    Raises:
        CalculatorError: see there; or TorchSim is missing; or there is no potential.
    """
    if isinstance(potential, BatchedPotential):
        return potential
    if is_torch_sim_model(potential):
        return TorchSimPotential(potential)
    if isinstance(potential, str):
        if (m3gnet := _m3gnet(potential, device)) is not None:
            return m3gnet
        potential = get_calculator(potential, device=device, **kwargs)
    if potential is None:
        raise CalculatorError("there is no potential to compute in batches: give a name, a calculator or a model")
    return _of_calculator(potential)


def calculator_of(potential: BatchedPotential) -> Any:
    """The ASE calculator of a potential in batches, for one crystal: its own, where it has one."""
    from deeprelax_ase.calculators.batched_ase import AsePotential, PotentialCalculator

    if isinstance(potential, AsePotential) and potential.one_by_one:
        return potential.calculator
    return PotentialCalculator(potential)


def _m3gnet(name: str, device: str) -> BatchedPotential | None:
    """M3GNet by its name, where its weights are those that we compute; None for others, and where they are missing."""
    from deeprelax_ase.calculators.m3gnet_potential import M3GNetPotential

    kind, _, folder = name.partition(":")
    if kind.lower() != "m3gnet":
        return None
    try:
        return M3GNetPotential(m3gnet_in(folder) if folder else m3gnet_network(), device=device)
    except CalculatorError:  # the calculator tells what is missing, or is another M3GNet
        return None


def m3gnet_network() -> M3GNet:
    """The network, one in a process: from the folder that ``DEEPRELAX_M3GNET`` names, or else where MatGL finds it.

    The folder is read without MatGL and DGL.

    Raises:
        CalculatorError: the weights are not to be had.
    """
    return m3gnet_in(os.environ.get(M3GNET_VARIABLE, ""))


@cache
def m3gnet_in(folder: str) -> M3GNet:
    """The network in ``folder``, see :func:`m3gnet_network`; where MatGL finds it if that is empty."""
    if folder:
        return load_m3gnet(folder)
    try:
        potential: Any = get_calculator("m3gnet").potential
    except CalculatorError as error:
        raise CalculatorError(f"{error} A folder in {M3GNET_VARIABLE} is read without MatGL.") from error
    if not runs_on_dgl():
        raise CalculatorError(
            f"M3GNet in batches is that of MatGL 2, and the installed MatGL has another one: set {M3GNET_VARIABLE} to "
            f"the folder of {M3GNET_POTENTIAL}."
        )
    known = torch.tensor([atomic_numbers[symbol] for symbol in potential.model.element_types])
    return M3GNet(potential.state_dict(), known).requires_grad_(False)


def _is_plain_chgnet(calculator: Any) -> bool:
    """Whether it gives what CHGNet gives, and nothing of its own; and whether that is the same in a batch.

    Biases of CHGNet 0.2.0 reach bonds without angles where any crystal of a batch has an angle, and not in one without.
    """
    if type(calculator).__name__ not in ("CHGNetCalculator", "ScopedCHGNetCalculator"):
        return False
    return bool(np.isclose(calculator.stress_weight, GPa)) and not calculator.model.model_args.get(
        "mlp_out_bias", False
    )


def _of_calculator(calculator: Any) -> BatchedPotential:
    from deeprelax_ase.calculators.batched_ase import AsePotential, PotentialCalculator

    if isinstance(calculator, PotentialCalculator):
        return calculator.potential
    if _is_plain_chgnet(calculator):
        from deeprelax_ase.calculators.chgnet_batch import CHGNetPotential

        return CHGNetPotential(calculator.model)
    return AsePotential(calculator)
