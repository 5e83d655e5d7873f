"""MatGL's stored M3GNet, read without MatGL and without unpickling: its folder, or one safetensors file made of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deeprelax_ase.calculators.identity import M3GNET_WEIGHTS, digest_of
from deeprelax_ase.calculators.m3gnet_torch import CUTOFF, THREE_BODY_CUTOFF, M3GNet
from deeprelax_ase.errors import CalculatorError

#: Architecture that :class:`M3GNet` computes; MatGL's M3GNet can have others.
_ARCHITECTURE = {
    "max_n": 3,
    "max_l": 3,
    "nblocks": 3,
    "rbf_type": "SphericalBessel",
    "is_intensive": False,
    "cutoff": CUTOFF,
    "threebody_cutoff": THREE_BODY_CUTOFF,
    "use_smooth": False,
    "use_phi": False,
    "activation_type": "swish",
    "include_state": False,
}

_NUMBERS = "atomic_numbers"


def load_m3gnet(path: str | os.PathLike) -> M3GNet:
    """The network in a folder of MatGL 2's (``model.json``, ``state.pt``), or in a file of :func:`save_m3gnet`'s.

    Raises:
        CalculatorError: files are missing or damaged, or hold another kind of model.
    """
    path = Path(path).expanduser()
    try:
        state = _from_folder(path) if path.is_dir() else _from_safetensors(path)
        return M3GNet(state, state.pop(_NUMBERS)).requires_grad_(False)
    except CalculatorError:
        raise
    except Exception as error:  # whatever torch, json and safetensors say of a file that is no such file
        told = f"{path} holds no M3GNet that can be read ({type(error).__name__}: {error})"
        raise CalculatorError(f"{told}. Give the folder of M3GNet-MP-2021.2.8-PES, as MatGL 2 stores it.") from error


def save_m3gnet(folder: str | os.PathLike, path: str | os.PathLike) -> None:
    """Write MatGL's folder as one safetensors file, which needs neither it nor ASE.

    Raises:
        CalculatorError, OSError: the folder cannot be read, or the file not be written.
    """
    from safetensors.torch import save_file

    load_m3gnet(folder)
    save_file(_from_folder(Path(folder).expanduser()), Path(path))


def _from_folder(folder: Path) -> dict[str, Tensor]:
    from ase.data import atomic_numbers

    stored = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    model: dict[str, Any] = stored["kwargs"]["model"]
    if model["@class"] != "M3GNet":
        raise CalculatorError(f"{folder} holds a {model['@class']}, not an M3GNet")
    options = model["init_args"]
    if other := [f"{key} {options.get(key)!r}" for key, value in _ARCHITECTURE.items() if options.get(key) != value]:
        raise CalculatorError(
            f"{folder} holds an M3GNet of another architecture ({', '.join(other)}): use MatGL for it"
        )
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    of_matgl_2 = (stored["@module"], model["@module"]) == ("matgl.apps._pes_dgl", "matgl.models._m3gnet")
    if not of_matgl_2 and digest_of(state) != M3GNET_WEIGHTS:
        raise CalculatorError(
            f"{folder} does not say that MatGL 2 stored it with DGL, and later versions pass messages to other atoms: "
            "use MatGL for it"
        )
    state = {name: tensor.contiguous() for name, tensor in state.items() if not name.endswith((".cutoff", ".onehot"))}
    return {**state, _NUMBERS: torch.tensor([atomic_numbers[symbol] for symbol in options["element_types"]])}


def _from_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)
