"""Potentials of MatGL's: from a folder that is named, or that the environment names, or as MatGL finds them itself.

MatGL 3 mended the direction of messages: weights of MatGL 2 load there without a word and give other energies, and the
hub hands new weights out under old names. So it is the digest of weights that decides what they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from deeprelax_ase.calculators.identity import M3GNET_WEIGHTS, digest_of, weights_digest
from deeprelax_ase.calculators.scope import quiet
from deeprelax_ase.errors import BackendError, CalculatorError
from deeprelax_ase.graph.matgl_import import import_matgl, runs_on_dgl

#: Name of MatGL 2's M3GNet potential.
M3GNET_POTENTIAL = "M3GNet-MP-2021.2.8-PES"
#: Environment variable that says where an M3GNet potential lies.
M3GNET_VARIABLE = "DEEPRELAX_M3GNET"
#: Name of MatGL 2's TensorNet potential: the one for DGL, trained on MatPES' PBE calculations.
TENSORNET_POTENTIAL = "TensorNetDGL-MatPES-PBE-v2025.1-PES"
#: Environment variable that says where a TensorNet potential lies.
TENSORNET_VARIABLE = "DEEPRELAX_TENSORNET"


class Pretrained(NamedTuple):
    """A potential that MatGL offers.

    Attributes:
        dgl: its name in MatGL 2's collection.
        pyg: name of the one that took over, on the hub of MatGL 3 and later.
        variable: the environment variable that says where a copy lies.
        digest: that of the weights that ``dgl`` must be of; None where they are not known.
    """

    dgl: str
    pyg: str
    variable: str
    digest: str | None = None

    @property
    def potential(self) -> str:
        """The name for the installed MatGL."""
        return self.dgl if runs_on_dgl() else self.pyg


#: By the names that calculators have.
PRETRAINED = {
    "m3gnet": Pretrained(M3GNET_POTENTIAL, "M3GNet-PES-MatPES-PBE-2025.2", M3GNET_VARIABLE, M3GNET_WEIGHTS),
    "tensornet": Pretrained(TENSORNET_POTENTIAL, "TensorNet-PES-MatPES-PBE-2025.2", TENSORNET_VARIABLE),
}

_FILES = ("model.json", "model.pt", "state.pt")
#: Seconds in which MatGL's hub has to answer.
_PATIENCE = 5.0


def matgl_calculator(folder: str, pretrained: Pretrained | None = None, **options: Any) -> Any:
    """A calculator of one of MatGL's potentials.

    M3GNet-MP-2021.2.8-PES without DGL is computed by this package's own M3GNet, which equals MatGL 2's.

    Args:
        folder: where the potential lies; empty for the folder in the variable of ``pretrained``, or without it for
            MatGL's own search: its cache, and the network.
        pretrained: one that MatGL offers.
        **options: of :class:`~deeprelax_ase.calculators.matgl.MatGLCalculator`.

    Raises:
        CalculatorError: MatGL or the potential is missing or damaged, or it was made for another version of MatGL.
    """
    if not folder and pretrained is not None:
        folder = os.environ.get(pretrained.variable, "")
    if not folder:
        return hub_calculator(pretrained.potential, pretrained, **options)  # type: ignore[union-attr]
    folder = _checked(Path(folder).expanduser(), pretrained)
    if not (runs_on_dgl() and find_spec("dgl")) and _digest_in(folder) == M3GNET_WEIGHTS:
        return _own_m3gnet(folder, **options)
    if not runs_on_dgl():
        _refuse_older(folder)
    return _calculator(folder, lambda error: f"MatGL cannot load the potential in {folder}: {error}", options)


def hub_calculator(name: str, pretrained: Pretrained | None = None, **options: Any) -> Any:
    """A calculator of the potential that MatGL finds by ``name``, in its cache or on its hub.

    Args:
        name: of MatGL's own, or ``owner/name``.
        pretrained: the one that is called so, if there is a variable for it.
        **options: of :class:`~deeprelax_ase.calculators.matgl.MatGLCalculator`.

    Raises:
        CalculatorError: MatGL or the potential is missing, or the hub has other weights under this name.
    """
    with _hub() as answers:
        why = "" if answers else "its hub does not answer"
        calculator = _calculator(name, lambda error: _not_found(name, pretrained, why or error), options)
    calculator.hub_name = name
    if runs_on_dgl() and name == M3GNET_POTENTIAL and weights_digest(calculator) != M3GNET_WEIGHTS:
        raise CalculatorError(
            f"what MatGL found under the name {name} are other weights, which MatGL {version('matgl')} evaluates "
            f"wrongly: its hub has new ones under old names. Set {M3GNET_VARIABLE} to a folder with the old ones, or "
            'install the MatGL of today with pip install "deeprelax-ase[matgl]".'
        )
    return calculator


@contextmanager
def _hub() -> Iterator[bool]:
    """Ask MatGL's hub once; where it does not answer, MatGL looks into caches alone, and does not ask twelve times.

    Yields:
        whether it answers; True where MatGL, which asks it, is missing.
    """
    try:
        import requests
        from huggingface_hub import constants
    except ImportError:
        yield True
        return
    before = constants.HF_HUB_OFFLINE
    try:
        requests.head(constants.ENDPOINT, timeout=_PATIENCE)
    except requests.RequestException:
        constants.HF_HUB_OFFLINE = True
    try:
        yield before or not constants.HF_HUB_OFFLINE
    finally:
        constants.HF_HUB_OFFLINE = before


def _calculator(place: str, told: Callable[[Exception], str], options: dict[str, Any]) -> Any:
    """The calculator of what MatGL loads from ``place``; ``told`` says what went wrong if it cannot."""
    try:
        import_matgl()
        with quiet():
            from deeprelax_ase.calculators.matgl import MatGLCalculator, load
    except BackendError as error:
        raise CalculatorError(f"MatGL's potentials need MatGL. {error}") from error
    try:
        with quiet():
            potential = load(place)
    except Exception as error:  # MatGL wraps whatever went wrong, in several ways
        raise CalculatorError(told(error)) from error
    if not hasattr(potential, "calc_stresses"):
        raise CalculatorError(f"{place} holds a {type(potential).__name__}, which is no potential: it has no forces")
    return MatGLCalculator(potential, **options)


def _own_m3gnet(folder: str, *, dtype: str = "float32", threads: int | None = None) -> Any:
    import torch

    from deeprelax_ase.calculators.batched_ase import PotentialCalculator
    from deeprelax_ase.calculators.m3gnet_potential import M3GNetPotential
    from deeprelax_ase.calculators.m3gnet_weights import load_m3gnet

    network = load_m3gnet(folder).to(dtype=getattr(torch, dtype))
    return PotentialCalculator(M3GNetPotential(network, device="cpu"), threads=threads)


def _digest_in(folder: str) -> str | None:
    """Digest of the weights that are stored in ``folder``; None where they cannot be read, as MatGL will say."""
    import torch

    try:
        return digest_of(torch.load(Path(folder, "state.pt"), map_location="cpu", weights_only=True))
    except Exception:
        return None


def _refuse_older(folder: str) -> None:
    """Refuse what MatGL 2 has stored: weights that later versions load without a word, for other energies.

    Files say no version. Those of MatGL on DGL tell by the names of modules, and its first TensorNet on
    torch-geometric by what it lacks; what MatGL 1 stored cannot be told from what is stored today.
    """
    try:
        stored = json.loads(Path(folder, "model.json").read_text(encoding="utf-8"))
        network = stored["kwargs"]["model"]
        modules = [stored["@module"], network["@module"]]
        first = modules[1].endswith("_tensornet_pyg") and "use_warp" not in network["init_args"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return  # MatGL will say what is wrong with it
    if first or any(module.endswith("_dgl") for module in modules):
        raise CalculatorError(
            f"the potential in {folder} was stored by MatGL 2, and later versions pass messages to other atoms: they "
            'would give other energies. Evaluate it with pip install "deeprelax-ase[dgl]" on Python 3.11, or train it '
            "anew."
        )


def missing_files(folder: Path) -> list[str]:
    """Name the files of a MatGL potential that ``folder`` lacks."""
    return [name for name in _FILES if not (folder / name).is_file()]


def _checked(folder: Path, pretrained: Pretrained | None) -> str:
    missing = missing_files(folder)
    if not missing:
        return str(folder)
    mend = "Give a folder with these files."
    if pretrained is not None:
        mend = (
            f"Give the folder that holds them, or set {pretrained.variable} to it; without either MatGL looks for "
            f"{pretrained.potential} itself."
        )
    raise CalculatorError(f"{folder} is not the folder of a MatGL potential: {', '.join(missing)} missing. {mend}")


def _not_found(name: str, pretrained: Pretrained | None, error: Exception | str) -> str:
    mend = "give it as the calculator"
    if pretrained is not None:
        mend = f"set {pretrained.variable} to it or {mend}"
    return (
        f"MatGL neither has {name} in its cache nor can download it ({error}). Copy its folder here from a machine "
        f"with a network (there, MatGL keeps it in ~/.cache/matgl) and {mend}; or use 'chgnet', which needs no "
        "download."
    )
