"""Finishing calculators by name, as the command line takes them; any other ASE calculator is simply ``atoms.calc``."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

from deeprelax_ase.errors import BackendError, CalculatorError
from deeprelax_ase.graph.matgl_import import import_matgl

#: Name of the M3GNet potential in MatGL's own collection.
M3GNET_POTENTIAL = "M3GNet-MP-2021.2.8-PES"
#: Environment variable that says where a copy of it lies.
M3GNET_VARIABLE = "DEEPRELAX_M3GNET"
#: Name of the TensorNet potential in MatGL's own collection: the one for DGL, trained on MatPES' PBE calculations.
TENSORNET_MODEL = "TensorNetDGL-MatPES-PBE-v2025.1-PES"
#: Environment variable that says where a copy of it lies.
TENSORNET_VARIABLE = "DEEPRELAX_TENSORNET"


class _Pretrained(NamedTuple):
    """A potential that MatGL offers: its name there, and the variable that says where a copy lies."""

    model: str
    variable: str


_PRETRAINED = {
    "m3gnet": _Pretrained(M3GNET_POTENTIAL, M3GNET_VARIABLE),
    "tensornet": _Pretrained(TENSORNET_MODEL, TENSORNET_VARIABLE),
}
_POTENTIAL_FILES = ("model.json", "model.pt", "state.pt")
_HUB, _HUB_OWNER = "https://huggingface.co", "materialyze"  # where MatGL looks first; then on github.com
_KNOWN = (
    "'none', 'm3gnet', 'm3gnet:FOLDER', 'tensornet', 'tensornet:FOLDER', the path of a folder, 'chgnet' or "
    "'module:factory'"
)


def get_calculator(
    name: str, *, device: str = "auto", dtype: str | None = None, threads: int | None = None, **kwargs: Any
) -> Any:
    """The calculator called ``name``, in ASE's units: eV, eV/Å, eV/Å³.

    ======================  ==========================================================================================
    ``none``                no calculator: None
    ``m3gnet``              M3GNet through MatGL and DGL, on the CPU; its folder is the one that the environment
                            variable ``DEEPRELAX_M3GNET`` names, or the one in MatGL's cache, or MatGL downloads it
    ``tensornet``           MatGL's TensorNet in the same way, the variable being ``DEEPRELAX_TENSORNET``
    a path                  a potential that MatGL saved in that folder, whatever its architecture; it is unpickled:
                            take it from people you trust. ``m3gnet:FOLDER`` and ``tensornet:FOLDER`` mean the same
    ``chgnet``              CHGNet, whose weights come with its package
    ``module:factory``      what ``factory(**kwargs)`` of an importable module returns: a calculator class or a function
    ======================  ==========================================================================================

    Args:
        name: one of the above.
        device: where CHGNet runs: ``"auto"``, ``"cpu"`` or ``"cuda"``. A factory's device is the factory's own affair.
        dtype: what MatGL's potentials compute in: ``"float32"``, their default, or ``"float64"``.
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
    options = {key: value for key, value in (("dtype", dtype), ("threads", threads)) if value is not None}
    kind, _, argument = name.partition(":")
    kind = kind.lower() if kind.lower() in ("none", "chgnet", *_PRETRAINED) else kind
    if kind in _PRETRAINED:
        return _matgl(argument, _PRETRAINED[kind], {**options, **kwargs})
    if kind == "none" and not argument:
        return None
    if kind == "chgnet" and not argument:
        return _chgnet(device, {**options, **kwargs})
    if _is_path(name):
        return _matgl(name, None, {**options, **kwargs})
    if argument and kind not in ("none", "chgnet") and all(part.isidentifier() for part in kind.split(".")):
        return _from_factory(kind, argument, {**options, **kwargs})
    raise CalculatorError(f"Unknown calculator {name!r}, must be one of {_KNOWN} (as 'ase.calculators.emt:EMT')")


def _is_path(name: str) -> bool:
    return os.sep in name or name.startswith("~") or (name != "" and Path(name).is_dir())


def _matgl(folder: str, pretrained: _Pretrained | None, options: dict[str, Any]) -> Any:
    if not folder and pretrained is not None:
        folder = os.environ.get(pretrained.variable, "")
    folder = _potential_folder(folder, pretrained)
    try:
        matgl = import_matgl()
        with _quiet():
            from deeprelax_ase.calculators.matgl import MatGLCalculator
    except BackendError as error:
        raise CalculatorError(f"MatGL's potentials need MatGL. {error}") from error
    if folder or pretrained is None:
        potential = _load_potential(matgl.load_model, folder)
    else:
        potential = _load_pretrained(matgl.load_model, pretrained)
    if not hasattr(potential, "calc_stresses"):
        raise CalculatorError(f"{folder} holds a {type(potential).__name__}, which is no potential: it has no forces")
    return MatGLCalculator(potential, **options)


def _potential_folder(folder: str, pretrained: _Pretrained | None) -> str:
    """``folder`` with the home folder written out, checked to hold a potential; nothing stays nothing."""
    folder = str(Path(folder).expanduser()) if folder else ""
    missing = [name for name in _POTENTIAL_FILES if folder and not (Path(folder) / name).is_file()]
    if missing:
        mend = "Give a folder with these files."
        if pretrained is not None:
            mend = (
                f"Give the folder that holds them, or set {pretrained.variable} to it; without either MatGL looks for "
                f"{pretrained.model} itself."
            )
        raise CalculatorError(f"{folder} is not the folder of a MatGL potential: {', '.join(missing)} missing. {mend}")
    return folder


def _load_potential(load_model: Callable[..., Any], folder: str) -> Any:
    try:
        with _quiet():
            return load_model(folder)
    except Exception as error:  # MatGL wraps whatever went wrong, in several ways
        raise CalculatorError(f"MatGL cannot load the potential in {folder}: {error}") from error


def _load_pretrained(load_model: Callable[..., Any], pretrained: _Pretrained) -> Any:
    """From MatGL's cache, where it is found without a network; else MatGL downloads it, unless that is hopeless."""
    cached = _folder_in_cache(pretrained.model)
    if cached is not None:
        return _load_potential(load_model, cached)
    try:
        if _is_offline():
            raise OSError("there is no network")  # MatGL would try again for half a minute
        with _quiet():
            return load_model(pretrained.model)
    except Exception as error:
        raise CalculatorError(
            f"MatGL neither has {pretrained.model} in its cache nor can download it. Copy its folder here from a "
            f"machine with a network (there, MatGL keeps it in ~/.cache/matgl) and set {pretrained.variable} to it or "
            f"give it as the calculator; or use 'chgnet', which needs no download."
        ) from error


def _folder_in_cache(model: str) -> str | None:
    """Where MatGL put ``model`` when it downloaded it: from GitHub into a folder of its own, or from the Hub."""
    from matgl.config import MATGL_CACHE

    own = Path(MATGL_CACHE) / model
    if all((own / name).is_file() for name in _POTENTIAL_FILES):
        return str(own)
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:  # an early MatGL 2, which does not know the Hub
        return None
    repository = f"{_HUB_OWNER}/{model}"
    found = [try_to_load_from_cache(repository, name, cache_dir=str(MATGL_CACHE)) for name in _POTENTIAL_FILES]
    return str(Path(found[0]).parent) if all(isinstance(path, str) for path in found) else None  # type: ignore[arg-type]


def _is_offline() -> bool:
    """Whether none of the places that MatGL downloads from can even be looked up; behind a proxy nobody can say."""
    if getproxies():
        return False
    for host in (urlsplit(os.environ.get("HF_ENDPOINT", _HUB)).hostname, "github.com"):
        with contextlib.suppress(OSError):
            socket.getaddrinfo(host, 443)
            return False
    return True


def _chgnet(device: str, kwargs: dict[str, Any]) -> Any:
    if kwargs.pop("dtype", "float32") != "float32":
        raise CalculatorError("CHGNet computes in float32 only: leave dtype out, or use 'm3gnet'")
    try:
        with _quiet():
            from deeprelax_ase.calculators.chgnet import ThreadedCHGNetCalculator
    except ImportError as error:
        raise CalculatorError(f'CHGNet is not installed ({error}): pip install "deeprelax-ase[chgnet]"') from error
    with _quiet():
        return ThreadedCHGNetCalculator(use_device=None if device == "auto" else device, **kwargs)


def imported(module: str, name: str, mend: str) -> Any:
    """What ``module`` calls ``name``.

    Raises:
        CalculatorError: there is no such module, which ``mend`` helps with, or it has no such name.
    """
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        raise CalculatorError(f"Cannot import {module!r} ({error}). {mend}") from error
    except AttributeError as error:
        raise CalculatorError(f"Module {module!r} has no {name!r}; give 'module:factory'") from error


def _from_factory(module: str, factory: str, kwargs: dict[str, Any]) -> Any:
    mend = f"Calculators are {_KNOWN}, where the module is installed or its folder is on PYTHONPATH."
    make = imported(module, factory, mend)
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
