"""Gather trained members into a model.

``python -m deeprelax_ase.training.export MEMBER.safetensors... --card CARD.json``
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from shutil import copyfile

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.loading import save_model
from deeprelax_ase.models.registry import WEIGHTS
from deeprelax_ase.nn import ARCHITECTURES, DeepRelax, DeepRelaxE3


def write_member(network: DeepRelax | DeepRelaxE3, file: Path, *, seed: int) -> None:
    """Write weights in half precision, with the configuration and the ``seed`` that they were trained with."""
    halves = {name: tensor.half().contiguous().cpu() for name, tensor in network.state_dict().items()}
    save_file(halves, file, {"config": json.dumps(network.config.to_dict()), "seed": str(seed)})


def read_member(file: Path) -> DeepRelax | DeepRelaxE3:
    """The network whose weights and configuration :func:`write_member` wrote to ``file``."""
    with safe_open(file, framework="pt") as stream:
        config = json.loads(stream.metadata()["config"])
    make, kind = ARCHITECTURES["DeepRelaxE3" if "num_blocks" in config else "DeepRelax"]
    network = make(kind.from_dict(config))
    network.load_state_dict(load_file(file), strict=True)
    return network


def export(files: list[Path], card: Path, out: Path) -> ModelCard:
    """Write the ensemble of ``files`` into ``out``; ``card`` (JSON) holds the fields that do not follow from them.

    The card must give ``name``; fields that the networks settle (members, config, sha256, ...) are computed anew. What
    tells novelty, where the card speaks of it, is copied from beside the card.
    """
    values = json.loads(card.read_text(encoding="utf-8"))
    computed = ("members", "parameters", "config", "architecture", "sha256")
    given = {key: value for key, value in values.items() if key not in (*computed, "name")}
    written = save_model([read_member(file) for file in files], out, values["name"], **given)
    if written.novelty and out.resolve() != card.parent.resolve():
        copyfile(card.with_name(written.novelty["file"]), out / written.novelty["file"])
    return written


def main() -> None:
    """Command line of :func:`export`."""
    parser = argparse.ArgumentParser(prog="python -m deeprelax_ase.training.export", description=export.__doc__)
    parser.add_argument("members", nargs="+", type=Path, help="weights.safetensors of each member")
    parser.add_argument("--card", required=True, type=Path, help="JSON with the descriptive fields of the model card")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder to write to (default: the package's weights)")
    arguments = parser.parse_args()
    card = export(arguments.members, arguments.card, arguments.out)
    print(f"{card.name}: {card.members} members of {card.parameters} parameters, sha256 {card.sha256}")


if __name__ == "__main__":
    main()
