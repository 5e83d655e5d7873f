"""Potentials of MatGL's: from a folder that is named, or that the environment names, or as MatGL finds them itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from deeprelax_ase.calculators.quiet import quiet
from deeprelax_ase.errors import BackendError, CalculatorError
from deeprelax_ase.graph.matgl_import import import_matgl

#: Name of the M3GNet potential in MatGL's own collection.
M3GNET_POTENTIAL = "M3GNet-MP-2021.2.8-PES"
#: Environment variable that says where a copy of it lies.
M3GNET_VARIABLE = "DEEPRELAX_M3GNET"
#: Name of the TensorNet potential in MatGL's own collection: the one for DGL, trained on MatPES' PBE calculations.
TENSORNET_POTENTIAL = "TensorNetDGL-MatPES-PBE-v2025.1-PES"
#: Environment variable that says where a copy of it lies.
TENSORNET_VARIABLE = "DEEPRELAX_TENSORNET"


class Pretrained(NamedTuple):
    """A potential that MatGL offers: its name there, and the variable that says where a copy lies."""

    potential: str
    variable: str


#: By the names that calculators have.
PRETRAINED = {
    "m3gnet": Pretrained(M3GNET_POTENTIAL, M3GNET_VARIABLE),
    "tensornet": Pretrained(TENSORNET_POTENTIAL, TENSORNET_VARIABLE),
}

_FILES = ("model.json", "model.pt", "state.pt")


def matgl_calculator(folder: str, pretrained: Pretrained | None = None, **options: Any) -> Any:
    """A calculator of one of MatGL's potentials.

    Args:
        folder: where the potential lies; empty for the folder in the variable of ``pretrained``, or without it for
            MatGL's own search: its cache, and the network.
        pretrained: one that MatGL offers.
        **options: of :class:`~deeprelax_ase.calculators.matgl.MatGLCalculator`.

    Raises:
        CalculatorError: MatGL or the potential is missing or damaged.
    """
    if not folder and pretrained is not None:
        folder = os.environ.get(pretrained.variable, "")
    if folder:
        folder = _checked(Path(folder).expanduser(), pretrained)
    try:
        import_matgl()
        with quiet():
            from deeprelax_ase.calculators.matgl import MatGLCalculator, load
    except BackendError as error:
        raise CalculatorError(f"MatGL's potentials need MatGL. {error}") from error
    try:
        with quiet():
            potential = load(folder or pretrained.potential)  # type: ignore[union-attr]
    except Exception as error:  # MatGL wraps whatever went wrong, in several ways
        raise CalculatorError(_not_loaded(folder, pretrained, error)) from error
    if not hasattr(potential, "calc_stresses"):
        raise CalculatorError(f"{folder} holds a {type(potential).__name__}, which is no potential: it has no forces")
    return MatGLCalculator(potential, **options)


def _checked(folder: Path, pretrained: Pretrained | None) -> str:
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if not missing:
        return str(folder)
    mend = "Give a folder with these files."
    if pretrained is not None:
        mend = (
            f"Give the folder that holds them, or set {pretrained.variable} to it; without either MatGL looks for "
            f"{pretrained.potential} itself."
        )
    raise CalculatorError(f"{folder} is not the folder of a MatGL potential: {', '.join(missing)} missing. {mend}")


def _not_loaded(folder: str, pretrained: Pretrained | None, error: Exception) -> str:
    if folder or pretrained is None:
        return f"MatGL cannot load the potential in {folder}: {error}"
    return (
        f"MatGL neither has {pretrained.potential} in its cache nor can download it ({error}). Copy its folder here "
        f"from a machine with a network (there, MatGL keeps it in ~/.cache/matgl) and set {pretrained.variable} to it "
        "or give it as the calculator; or use 'chgnet', which needs no download."
    )
