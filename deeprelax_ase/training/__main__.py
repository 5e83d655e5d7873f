"""Train an ensemble: ``python -m deeprelax_ase.training DATA.npz... --out RUN``."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file

from deeprelax_ase.data import Pairs, load_pairs
from deeprelax_ase.nn import ABLATIONS, DeepRelaxConfig, DeepRelaxE3Config
from deeprelax_ase.training.loop import train
from deeprelax_ase.training.presets import departing, setting, training_pairs
from deeprelax_ase.training.settings import TrainingSettings


def main() -> None:
    """Train member after member; a call that hits its time limit is continued by the same call."""
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    deadline = None if arguments.time_limit is None else time.monotonic() + arguments.time_limit
    config, settings, pairs = _paper(arguments) if arguments.network == "paper" else _end_to_end(arguments)
    settings = replace(settings, seconds=arguments.seconds, max_steps=arguments.max_steps, compile=arguments.compile)
    pairs = pairs.to(arguments.device)
    print(f"{len(pairs)} pairs, {len(pairs.numbers)} atoms on {arguments.device}")
    if arguments.compile:  # a throw-away run, so that compiling does not eat into the first member's budget
        with TemporaryDirectory() as folder:  # not kept: a checkpoint there would leave the next call uncompiled
            train(pairs, config, replace(settings, seconds=1.0, max_steps=None), folder, deadline=deadline)
    for member in range(arguments.members):
        out = arguments.out / f"member{member}"
        if (out / "weights.safetensors").exists():
            continue
        seeded = replace(settings, seed=arguments.seed + member)
        network = train(pairs, config, seeded, out, deadline=deadline, initial=arguments.initial)
        if network is None:
            print(f"time limit reached in member {member}; the same command continues it")
            return
        metadata = {"config": json.dumps(config.to_dict()), "seed": str(arguments.seed + member)}
        weights = {name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}  # as shipped
        save_file(weights, out / "weights.safetensors", metadata)
        print(f"member {member} finished")


def _paper(arguments: argparse.Namespace) -> tuple[DeepRelaxConfig, TrainingSettings, Pairs]:
    if arguments.forces:
        raise SystemExit("--forces is for --network e3: the paper's network reads none")
    config = ABLATIONS[arguments.variant] if arguments.variant else DeepRelaxConfig()
    settings = TrainingSettings(learning_rate=arguments.learning_rate, atoms_per_batch=arguments.atoms_per_batch)
    pairs = load_pairs(arguments.data, dtype=torch.float32).in_split("train")
    return replace(config, channels=arguments.channels), settings, pairs


def _end_to_end(arguments: argparse.Namespace) -> tuple[DeepRelaxE3Config, TrainingSettings, Pairs]:
    config, settings, chosen = departing(dict(arguments.set))
    if arguments.forces and len(arguments.forces) != len(arguments.data):
        raise SystemExit(f"--forces names {len(arguments.forces)} files for {len(arguments.data)} of data")
    return config, settings, training_pairs(arguments.data, chosen, forces=arguments.forces)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deeprelax_ase.training",
        description=main.__doc__,
        epilog="example: python -m deeprelax_ase.training pairs.npz --out run --seconds 200 --device cuda --compile",
    )
    parser.add_argument("data", nargs="+", type=Path, help="npz files of relaxation pairs; their train split is used")
    parser.add_argument("--forces", nargs="+", default=[], type=Path, help="e3: known forces, a file for each of data")
    parser.add_argument("--network", choices=("e3", "paper"), default="e3", help="default %(default)s")
    parser.add_argument(
        "--set",
        type=setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="e3: a field of the network's, training's or augmentation's settings, its value in JSON; repeatable",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, logs and checkpoints")
    parser.add_argument("--initial", type=Path, help="weights.safetensors of an earlier run to start from")
    parser.add_argument("--members", type=int, default=5, help="size of the ensemble (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=600.0, help="budget per member (default %(default)s)")
    parser.add_argument("--max-steps", type=int, help="budget per member in steps instead of seconds")
    parser.add_argument("--time-limit", type=float, help="stop this call after so many seconds, checkpointed")
    parser.add_argument("--variant", choices=sorted(ABLATIONS), help="paper: a network of its table 4 instead of ours")
    parser.add_argument("--channels", type=int, default=128, help="paper: features per atom (default %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="paper: peak rate (default %(default)s)")
    parser.add_argument("--atoms-per-batch", type=int, default=8000, help="paper: default %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="fuse kernels with torch.compile")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first member (default %(default)s)")
    return parser


if __name__ == "__main__":
    main()
