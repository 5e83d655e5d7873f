"""Gather trained members into a model."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from shutil import copyfile

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from deeprelax_ase.errors import ModelError
from deeprelax_ase.io.placing import taken
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.loading import save_model
from deeprelax_ase.nn import ARCHITECTURES, DeepRelax, DeepRelaxE3
from deeprelax_ase.nn.energy_head import EnergyHead
from deeprelax_ase.training.heads import ENERGY

#: Fields of a card that hold for its very weights alone.
OF_WEIGHTS = ("calibration", "novelty", "energy", "metrics")


def write_member(network: DeepRelax | DeepRelaxE3, file: Path, *, seed: int) -> None:
    """Write weights in half precision, with the configuration and the ``seed`` that they were trained with.

    Those of a head for the relaxed energy too, but for the energies of the elements, which may be tens of eV.
    """
    state = network.state_dict()
    halves = {n: (t if n == f"{ENERGY}elements" else t.half()).contiguous().cpu() for n, t in state.items()}
    save_file(halves, file, {"config": json.dumps(network.config.to_dict()), "seed": str(seed)})


def read_member(file: Path) -> DeepRelax | DeepRelaxE3:
    """The network whose weights and configuration :func:`write_member` wrote to ``file``.

    Raises:
        ModelError: it holds none.
    """
    try:
        with safe_open(file, framework="pt") as stream:
            config = json.loads(stream.metadata()["config"])
    except (OSError, SafetensorError, TypeError, KeyError) as error:
        raise ModelError(f"{file} is no member that training wrote (member0/weights.safetensors): {error}") from error
    make, kind = ARCHITECTURES["DeepRelaxE3" if "num_blocks" in config else "DeepRelax"]
    network = make(kind.from_dict(config))
    tensors = {name: tensor for name, tensor in load_file(file).items() if not name.startswith(ENERGY)}
    network.load_state_dict(tensors, strict=True)
    return network


def read_energy_head(file: Path) -> EnergyHead:
    """The head for the relaxed energy that :func:`write_member` wrote to ``file`` with its network.

    Raises:
        ValueError: there is none.
    """
    tensors = load_file(file)
    return EnergyHead.from_tensors({n.removeprefix(ENERGY): t for n, t in tensors.items() if n.startswith(ENERGY)})


def export(files: list[Path], card: Path, out: Path, *, overwrite: bool = True) -> ModelCard:
    """Write the ensemble of ``files`` into ``out``; ``card`` (JSON) holds the fields that do not follow from them.

    The card must give ``name``; fields that the networks settle (members, config, sha256, ...) are computed anew. What
    was fitted to, or measured with, the very weights that the card is of (:data:`OF_WEIGHTS`) stays if these are the
    same, with the files beside the card; for others it is left out, with a warning.

    A model of that name that lies in ``out`` is replaced if ``overwrite``.

    Raises:
        ModelError: a file holds no member, or the card cannot be read or gives no name.
        OutputError: there is a model of that name, and it is to stay.
        ValueError: the members differ in configuration.
    """
    try:
        values = json.loads(card.read_text(encoding="utf-8"))
        values["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{card} is no JSON with the name and the description of a model: {error}") from error
    if not overwrite and (there := out / f"{values['name']}.json").exists():
        raise taken(there)
    computed = ("members", "parameters", "config", "architecture", "sha256")
    given = {key: value for key, value in values.items() if key not in (*computed, *OF_WEIGHTS, "name")}
    written = save_model([read_member(file) for file in files], out, values["name"], **given)
    fitted = {key: values[key] for key in OF_WEIGHTS if values.get(key)}
    if fitted and (values.get("sha256"), values.get("members")) != (written.sha256, written.members):
        warnings.warn(
            f"left out, as {card} has it of other weights than these: {', '.join(fitted)}. deeprelax calibrate fits "
            "calibration and novelty anew",
            stacklevel=2,
        )
        return written
    for told in (fitted[key] for key in ("novelty", "energy") if key in fitted):
        if out.resolve() != card.parent.resolve():
            copyfile(card.with_name(told["file"]), out / told["file"])
    written = replace(written, **fitted)
    written.write(out / f"{written.name}.json")
    return written
