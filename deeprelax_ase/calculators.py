"""Finishing calculators by name, as the command line takes them; any other ASE calculator is simply ``atoms.calc``."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from deeprelax_ase._matgl import import_matgl
from deeprelax_ase.errors import BackendError, CalculatorError

#: Name of the M3GNet potential in MatGL's own collection.
M3GNET_MODEL = "M3GNet-MP-2021.2.8-PES"
#: Environment variable that says where a copy of it lies.
M3GNET_VARIABLE = "DEEPRELAX_M3GNET"

_M3GNET_FILES = ("model.json", "model.pt", "state.pt")


def get_calculator(name: str, *, device: str = "auto", **kwargs: Any) -> Any:
    """The calculator called ``name``, in ASE's units: eV, eV/Å, eV/Å³.

    ======================  ==========================================================================================
    ``none``                no calculator: None
    ``m3gnet``              M3GNet through MatGL and DGL, on the CPU; its folder is the one that the environment
                            variable ``DEEPRELAX_M3GNET`` names, or MatGL finds or downloads it
    ``m3gnet:FOLDER``       a potential that MatGL saved in ``FOLDER``; it is unpickled: take it from people you trust
    ``chgnet``              CHGNet, whose weights come with its package
    ``module:factory``      what ``factory(**kwargs)`` of an importable module returns: a calculator class or a function
    ======================  ==========================================================================================

    Args:
        name: one of the above.
        device: where CHGNet runs: ``"auto"``, ``"cpu"`` or ``"cuda"``. A factory's device is the factory's own affair.
        **kwargs: passed on to the calculator's constructor or the factory.

    Raises:
        CalculatorError: the name is unknown, a package or file is missing, or the factory does not make a calculator.
    """
    kind, _, argument = name.partition(":")
    kind = kind.lower() if kind.lower() in ("none", "m3gnet", "chgnet") else kind
    if kind == "m3gnet":
        return _m3gnet(argument, kwargs)
    if kind in ("none", "chgnet") and not argument:
        return _chgnet(device, kwargs) if kind == "chgnet" else None
    if argument and kind not in ("none", "chgnet") and all(part.isidentifier() for part in kind.split(".")):
        return _from_factory(kind, argument, kwargs)
    raise CalculatorError(
        f"Unknown calculator {name!r}, must be one of 'none', 'm3gnet', 'm3gnet:FOLDER', 'chgnet' or 'module:factory' "
        "(for example 'ase.calculators.emt:EMT')"
    )


def _m3gnet(folder: str, kwargs: dict[str, Any]) -> Any:
    folder = _potential_folder(folder or os.environ.get(M3GNET_VARIABLE, ""))
    try:
        matgl = import_matgl()
        with _quiet():
            from matgl.ext.ase import PESCalculator
    except BackendError as error:
        raise CalculatorError(f"M3GNet needs MatGL. {error}") from error
    potential = _load_potential(matgl.load_model, folder)
    # PyPI's DGL knows the CPU only; MatGL's own default stress unit is GPa, ASE's is eV/Å^3
    return PESCalculator(potential.to("cpu"), **{"stress_unit": "eV/A3", "use_voigt": True, **kwargs})


def _potential_folder(folder: str) -> str:
    """``folder`` with the home folder written out, checked to hold a potential; nothing stays nothing."""
    folder = str(Path(folder).expanduser()) if folder else ""
    missing = [name for name in _M3GNET_FILES if folder and not (Path(folder) / name).is_file()]
    if missing:
        raise CalculatorError(
            f"{folder} is not the folder of a MatGL potential: {', '.join(missing)} missing. Give 'm3gnet:FOLDER', or "
            f"set {M3GNET_VARIABLE} to the folder; without either MatGL looks for {M3GNET_MODEL} itself."
        )
    return folder


def _load_potential(load_model: Callable[..., Any], folder: str) -> Any:
    try:
        with _quiet():
            return load_model(folder or M3GNET_MODEL)
    except Exception as error:  # MatGL wraps whatever went wrong, in several ways
        if folder:
            raise CalculatorError(f"MatGL cannot load the potential in {folder}: {error}") from error
        raise CalculatorError(
            f"MatGL neither has {M3GNET_MODEL} in its cache nor can download it. Copy its folder here from a machine "
            f"with a network (there, MatGL keeps it in ~/.cache/matgl) and set {M3GNET_VARIABLE} to it or say "
            "'m3gnet:FOLDER'; or use 'chgnet', which needs no download."
        ) from error


def _chgnet(device: str, kwargs: dict[str, Any]) -> Any:
    try:
        with _quiet():
            from chgnet.model.dynamics import CHGNetCalculator
    except ImportError as error:
        raise CalculatorError(f'CHGNet is not installed ({error}): pip install "deeprelax-ase[chgnet]"') from error
    with _quiet():
        return CHGNetCalculator(use_device=None if device == "auto" else device, **kwargs)


def _from_factory(module: str, factory: str, kwargs: dict[str, Any]) -> Any:
    try:
        make = getattr(import_module(module), factory)
    except ImportError as error:
        raise CalculatorError(
            f"Cannot import {module!r} ({error}). Calculators are 'none', 'm3gnet', 'chgnet' or 'module:factory', "
            "where the module is installed or its folder is on PYTHONPATH."
        ) from error
    except AttributeError as error:
        raise CalculatorError(f"Module {module!r} has no {factory!r}; give 'module:factory'") from error
    calculator = make(**kwargs) if callable(make) else make
    if isinstance(calculator, type) or not hasattr(calculator, "get_potential_energy"):
        raise CalculatorError(
            f"'{module}:{factory}' gave a {type(calculator).__name__}; it must be an ASE calculator class, or a "
            "function that returns an ASE calculator"
        )
    return calculator


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what packages print and warn of when they are imported or loaded off the user's terminal."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
