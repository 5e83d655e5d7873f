"""Identity of the potential in a calculator: a digest of its weights, never its class; and the model that fits it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from deeprelax_ase.models.registry import DEFAULT_MODEL, M3GNET_RELAX_MODEL

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Digest of M3GNet-MP-2021.2.8-PES as MatGL 2 evaluates it, see :func:`weights_digest`.
M3GNET_WEIGHTS = "dedacef6085245755a953e6154fc3db9dd65a1e08a62b64ae496fa7a6fd85d69"

#: Names of potentials by their digest; those of CHGNet come with its package.
KNOWN_POTENTIALS = {
    M3GNET_WEIGHTS: "M3GNet-MP-2021.2.8-PES",
    "049fa02808d84bc819895bb30e664168f03105737e10bfa0afed26531f3c8371": "CHGNet 0.2.0",
    "abd0d8ba2d46b13afe72e9520cf02e917fe715d742f1c720cfa2896aa9371962": "CHGNet 0.3.0",
    "b7e2400bf0fa4d6baf476adc91db4de6c9cbe51d93d953ba3c1f873982751967": "CHGNet r2SCAN",
}

#: Attributes under which calculators keep their network, or the calculator that they stand for.
_HOLDERS = ("potential", "model", "models", "network", "calculator")

#: Ends of names of what versions of a library derive, store or leave out as they like.
_DERIVED = (".cutoff", ".onehot")

#: Digests that were computed, each with a count of changes that the weights had seen, and the sum of the weights.
_digests: WeakKeyDictionary[nn.Module, tuple[tuple[int, float], str]] = WeakKeyDictionary()


def weights_digest(calculator: Any) -> str | None:
    """Digest of the weights of ``calculator`` (SHA-256, hexadecimal); None where it has none, as DFT and EMT.

    Found where MatGL, CHGNet, MACE, SevenNet and others keep their network; a calculator of your own says it by an
    attribute ``weights_digest``. Computed once, unless the weights have changed since. Weights that MatGL 3 or later
    evaluates have another digest than under MatGL 2: these versions pass messages to different atoms, so that the same
    weights are another potential.
    """
    return _find(calculator, depth=3)


def digest_of(state: Mapping[str, Any], evaluated_by: str = "") -> str:
    """Digest of tensors by their names, whatever their device, order and floating-point precision beyond float32.

    Args:
        state: a ``state_dict``.
        evaluated_by: name of what evaluates them otherwise than they were meant.
    """
    import torch

    digest = hashlib.sha256(evaluated_by.encode())
    for name in sorted(name for name in state if not name.endswith(_DERIVED)):
        tensor = state[name]
        if not isinstance(tensor, torch.Tensor):
            continue
        values = tensor.detach().cpu().contiguous()
        if values.is_floating_point():
            values = values.to(torch.float32)
        digest.update(f"{name.removeprefix('_orig_mod.')} {tuple(values.shape)}".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def potential_name(calculator: Any) -> str | None:
    """Name of the potential that ``calculator`` computes, such as ``"M3GNet-MP-2021.2.8-PES"``.

    One that is not known is called as the calculator, or as MatGL's hub calls it, with the beginning of its digest:
    ``"tensornet 1a2b3c4d5e6f"``. None where a calculator has no weights.
    """
    digest = weights_digest(calculator)
    if digest is None:
        return None
    name = getattr(calculator, "hub_name", None) or calculator_name(calculator)
    return KNOWN_POTENTIALS.get(digest) or f"{name} {digest[:12]}"


def _find(holder: Any, depth: int) -> str | None:
    """The digest that ``holder`` tells, or that of the network in it, or in what it holds."""
    told = getattr(holder, "weights_digest", None)
    if isinstance(told, str):
        return told
    if "torch" not in sys.modules:  # then there is no network, and torch need not be loaded to see that
        return None
    from torch import nn

    for name in _HOLDERS:
        found = getattr(holder, name, None)
        several = _listed(found)
        networks = [_inside(network) for network in several if isinstance(network, nn.Module)]
        if networks and len(networks) == len(several) and (digest := _of_networks(networks)) is not None:
            return digest
        if depth and found is not None and (digest := _find(found, depth - 1)) is not None:
            return digest
    return None


def _inside(network: nn.Module) -> nn.Module:
    """The network that a model of TorchSim's computes with, as other calculators hold it."""
    from torch import nn

    inner = getattr(network, "model", None)
    return inner if hasattr(network, "memory_scales_with") and isinstance(inner, nn.Module) else network


def _of_networks(networks: list[nn.Module]) -> str | None:
    """The digest of the weights of ``networks``; None where there are none, as in a model of plain numbers."""
    first = networks[0]
    if isinstance(told := getattr(first, "weights_digest", None), str):
        return told
    state = {
        f"{k}." * bool(k) + name: tensor for k, one in enumerate(networks) for name, tensor in one.state_dict().items()
    }
    tensors = [tensor for tensor in state.values() if hasattr(tensor, "is_inference")]
    if not tensors:
        return None
    changes = _changes(tensors)
    if first not in _digests or _digests[first][0] != changes:
        _digests[first] = changes, digest_of(state, _evaluated_by(first))
    return _digests[first][1]


def _changes(tensors: list[Tensor]) -> tuple[int, float]:
    """Count and sum, which tell cheaply that weights have changed: the count misses what goes through ``.data``."""
    import torch

    counted = sum(tensor._version for tensor in tensors if not tensor.is_inference())
    return counted, float(sum(tensor.detach().sum(dtype=torch.float64).cpu() for tensor in tensors))


def _evaluated_by(network: nn.Module) -> str:
    from deeprelax_ase.graph.matgl_import import runs_on_dgl  # here, as it loads torch

    return "MatGL 3" if type(network).__module__.startswith("matgl.") and not runs_on_dgl() else ""


def elements_of(holder: Any) -> frozenset[int] | None:
    """Atomic numbers that a calculator or model tells of itself: SevenNet's type map, MACE's table; None without."""
    import torch

    networks = [getattr(holder, "model", None), *_listed(getattr(holder, "models", None))]
    for network in networks:
        if isinstance(types := getattr(network, "type_map", None), dict):
            return frozenset(int(number) for number in types)
        numbers = getattr(network, "atomic_numbers", None)
        if isinstance(numbers, torch.Tensor) and not numbers.is_floating_point() and numbers.dim() == 1:
            return frozenset(numbers.tolist())
    return None


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, list | tuple) else [given]


def calculator_name(calculator: Any) -> str:
    """The name that ASE has for ``calculator``, such as ``"emt"``; that of its class where it is none of ASE's kinds.

    MatGL's potentials are called by their architecture, ``"m3gnet"`` or ``"tensornet"``, and CHGNet ``"chgnet"``, as
    :func:`~deeprelax_ase.calculators.get_calculator` calls them.
    """
    name = getattr(calculator, "name", None)
    return name if isinstance(name, str) and name else type(calculator).__name__.lower()


#: Models that have learnt the minima of a potential, by the digest of its weights.
MINIMA_OF = {M3GNET_WEIGHTS: M3GNET_RELAX_MODEL}


def model_for(calculator: Any) -> str:
    """Name of the model that jumps nearest to the minima of ``calculator``.

    The one that has learnt them, where the weights of ``calculator`` are known by their digest (see
    :func:`~deeprelax_ase.calculators.weights_digest`): those of M3GNet-MP-2021.2.8-PES. PBE's for any other, and for
    none: potentials are made to follow DFT.
    """
    return MINIMA_OF.get(weights_digest(calculator) or "", DEFAULT_MODEL)


def level_note(calculator: Any) -> str | None:
    """Say that :func:`model_for` knows no model of the minima of a potential; None where it does, or there is none."""
    name = potential_name(calculator)
    if name is None or weights_digest(calculator) in MINIMA_OF:
        return None
    return f"no model has learnt the minima of {name}: {DEFAULT_MODEL} jumps to those of PBE"
