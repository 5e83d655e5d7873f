"""Calculators and potentials in batches by name, as the command line takes them; others are simply ``atoms.calc``."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers
from ase.units import GPa

from deeprelax_ase.calculators.batched import BatchedPotential
from deeprelax_ase.calculators.m3gnet_torch import M3GNet
from deeprelax_ase.calculators.m3gnet_weights import load_m3gnet
from deeprelax_ase.calculators.potentials import (
    M3GNET_POTENTIAL,
    M3GNET_VARIABLE,
    PRETRAINED,
    hub_calculator,
    matgl_calculator,
)
from deeprelax_ase.calculators.scope import kept_loading, quiet
from deeprelax_ase.calculators.torch_sim import INSTALL, TorchSimPotential, is_torch_sim_model, sevennet
from deeprelax_ase.errors import CalculatorError
from deeprelax_ase.graph.matgl_import import runs_on_dgl

_KNOWN = (
    "'none', 'm3gnet', 'm3gnet:FOLDER', 'tensornet', 'tensornet:FOLDER', 'matgl:NAME', the path of a folder, 'chgnet', "
    "'chgnet:NAME', 'sevennet' or 'module:factory'"
)


def get_calculator(
    name: str, *, device: str = "auto", dtype: str | None = None, threads: int | None = None, **kwargs: Any
) -> Any:
    """The calculator called ``name``, in ASE's units: eV, eV/Å, eV/Å³.

    ======================  ==========================================================================================
    ``none``                no calculator: None
    ``m3gnet``              M3GNet through MatGL, on the CPU; its folder is the one that the environment variable
                            ``DEEPRELAX_M3GNET`` names; without it MatGL looks in its cache, or downloads it: MatGL 2
                            M3GNet-MP-2021.2.8-PES, MatGL 3 and later M3GNet-PES-MatPES-PBE-2025.2
    ``tensornet``           MatGL's TensorNet in the same way, the variable being ``DEEPRELAX_TENSORNET``
    ``matgl:NAME``          a potential by the name that it has on MatGL's hub
    a path                  a potential that MatGL saved in that folder, whatever its architecture; MatGL 2 unpickles
                            it: take it from people you trust. ``m3gnet:FOLDER`` and ``tensornet:FOLDER`` mean the same
    ``chgnet``              CHGNet, whose weights come with its package; ``chgnet:r2scan`` those at the level of r2SCAN
    ``sevennet``            SevenNet through TorchSim, with the weights of its package; ``sevennet:NAME`` for others
    ``module:factory``      what ``factory(**kwargs)`` of an importable module returns: an ASE calculator, or a model of
                            TorchSim's; the factory is a class or a function
    ======================  ==========================================================================================

    Args:
        name: one of the above.
        device: for CHGNet, SevenNet and factories with a parameter ``device``: ``"auto"``, ``"cpu"`` or ``"cuda"``.
            Factories are not told ``"auto"``. That of others is their own affair.
        dtype: precision of MatGL's potentials: ``"float32"``, their default, or ``"float64"``.
        threads: how many threads a calculation of MatGL's potentials or CHGNet takes; None leaves that to torch.
        **kwargs: passed on to the calculator's constructor or the factory, as are ``dtype`` and ``threads`` to a
            factory where they are given.

    Raises:
        CalculatorError: the name or an option is unknown, a package or file is missing, or the factory does not make a
            calculator.
    """
    if dtype not in (None, "float32", "float64"):
        raise CalculatorError(f"Unknown {dtype=}, must be 'float32' or 'float64'")
    if threads is not None and threads < 1:
        raise CalculatorError(f"{threads=} must be 1 or more; None leaves it to torch")
    options = {key: value for key, value in (("dtype", dtype), ("threads", threads)) if value is not None} | kwargs
    kind, _, argument = name.partition(":")
    kind = kind.lower() if kind.lower() in ("none", "chgnet", "matgl", *PRETRAINED) else kind
    if kind in PRETRAINED:
        return matgl_calculator(argument, PRETRAINED[kind], **options)
    if kind == "matgl" and argument:
        return hub_calculator(argument, **options)
    if kind == "none" and not argument:
        return None
    if kind == "chgnet":
        return _chgnet(argument, device, options)
    if kind.lower() == "sevennet":
        return _in_batches(sevennet(argument, device=device, **kwargs))
    _refuse_files(name, kind, argument)
    if os.sep in name or name.startswith("~") or (name and Path(name).is_dir()):
        return matgl_calculator(name, **options)
    if argument and kind not in ("none", "matgl") and all(part.isidentifier() for part in kind.split(".")):
        return _from_factory(kind, argument, options, device)
    raise CalculatorError(f"Unknown calculator {name!r}, must be one of {_KNOWN} (as 'ase.calculators.emt:EMT')")


def _refuse_files(name: str, kind: str, argument: str) -> None:
    """Refuse files in a calculator's place: code is run by the name of its module alone, and weights have a loader."""
    file, factory = (Path(kind).expanduser(), argument or "FACTORY") if kind.endswith(".py") else (Path(name), "")
    if factory:
        named = f"PYTHONPATH={file.parent if file.parent.name else '.'} and {f'{file.stem}:{factory}'!r}"
        raise CalculatorError(f"{file} is a file of Python, which is taken by the name of its module: give {named}")
    if file.expanduser().is_file():
        raise CalculatorError(
            f"{name} is a file, and a path must be the folder of a potential that MatGL saved. Weights of others are "
            "loaded by a function of yours, which returns an ASE calculator or a model of TorchSim's: give "
            "'module:function'"
        )


def _chgnet(weights: str, device: str, kwargs: dict[str, Any]) -> Any:
    if kwargs.pop("dtype", "float32") != "float32":
        raise CalculatorError("CHGNet computes in float32 only: leave dtype out, or use 'm3gnet'")
    try:
        with quiet():
            from deeprelax_ase.calculators.chgnet import ScopedCHGNetCalculator
    except ImportError as error:
        raise CalculatorError(f'CHGNet is not installed ({error}): pip install "deeprelax-ase[chgnet]"') from error
    with quiet():
        if weights:
            from chgnet.model import CHGNet

            try:
                kwargs["model"] = CHGNet.load(model_name=weights, use_device="cpu", verbose=False)
            except ValueError as error:
                raise CalculatorError(
                    f"CHGNet has no weights {weights!r}: take 'r2scan', '0.3.0' or '0.2.0'"
                ) from error
        return ScopedCHGNetCalculator(use_device=None if device == "auto" else device, **kwargs)


def _in_batches(potential: TorchSimPotential) -> Any:
    from deeprelax_ase.calculators.batched_ase import PotentialCalculator

    return PotentialCalculator(potential)


def imported(module: str, name: str, mend: str) -> Any:
    """Import ``name`` from ``module``.

    Raises:
        CalculatorError: there is no such module, which ``mend`` helps with, or it has no such name.
    """
    try:
        with kept_loading():
            return getattr(import_module(module), name)
    except ImportError as error:
        lacks = str(error.name).partition(".")[0] == "torch_sim"
        raise CalculatorError(f"Cannot import {module!r} ({error}). {INSTALL if lacks else mend}") from error
    except AttributeError as error:
        raise CalculatorError(f"Module {module!r} has no {name!r}; give 'module:factory'") from error
    except Exception as error:  # whatever a module does when it is imported
        raise CalculatorError(f"Cannot import {module!r} ({type(error).__name__}: {error}). {mend}") from error


def _takes(make: Any, option: str) -> bool:
    """Whether a factory names this ``option`` among its parameters; ASE's calculators take any other as theirs."""
    try:
        return option in signature(make).parameters
    except (TypeError, ValueError):  # built in
        return False


def _from_factory(module: str, factory: str, kwargs: dict[str, Any], device: str) -> Any:
    mend = f"Calculators are {_KNOWN}, where the module is installed or its folder is on PYTHONPATH."
    make = imported(module, factory, mend)
    if device != "auto" and callable(make) and _takes(make, "device"):
        kwargs = kwargs | {"device": device}
    try:
        with kept_loading():
            calculator = make(**kwargs) if callable(make) else make
    except Exception as error:  # whatever a factory does
        told = f"'{module}:{factory}' makes no calculator ({type(error).__name__}: {error})"
        raise CalculatorError(f"{told}; it must be an ASE calculator class, or a function that returns one") from error
    if is_torch_sim_model(calculator):
        return _in_batches(TorchSimPotential(calculator))
    if isinstance(calculator, type) or not hasattr(calculator, "get_potential_energy"):
        raise CalculatorError(
            f"'{module}:{factory}' gave an object of {type(calculator).__name__}; it must be an ASE calculator class, "
            "or a function that returns an ASE calculator or a model of TorchSim's"
        )
    return calculator


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
        from deeprelax_ase.calculators.chgnet import CHGNetPotential

        return CHGNetPotential(calculator.model)
    return AsePotential(calculator)
