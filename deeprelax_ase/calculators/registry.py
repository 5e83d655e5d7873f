"""Finishing calculators by name, as the command line takes them; any other ASE calculator is simply ``atoms.calc``."""

from __future__ import annotations

import os
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from deeprelax_ase.calculators.potentials import PRETRAINED, hub_calculator, matgl_calculator
from deeprelax_ase.calculators.scope import kept_loading, quiet
from deeprelax_ase.calculators.torch_sim import INSTALL, TorchSimPotential, is_torch_sim_model, sevennet
from deeprelax_ase.errors import CalculatorError

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
    if _is_path(name):
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


def _is_path(name: str) -> bool:
    return os.sep in name or name.startswith("~") or (name != "" and Path(name).is_dir())


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
