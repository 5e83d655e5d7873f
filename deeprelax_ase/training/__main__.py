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

from deeprelax_ase.data import load_pairs
from deeprelax_ase.nn import ABLATIONS, DeepRelaxConfig
from deeprelax_ase.training.loop import train
from deeprelax_ase.training.settings import TrainingSettings


def main() -> None:
    """Train member after member; a call that hits its time limit is continued by the same call."""
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    deadline = None if arguments.time_limit is None else time.monotonic() + arguments.time_limit
    config = ABLATIONS[arguments.variant] if arguments.variant else DeepRelaxConfig()
    config = replace(config, channels=arguments.channels)
    settings = TrainingSettings(
        seconds=arguments.seconds,
        max_steps=arguments.max_steps,
        learning_rate=arguments.learning_rate,
        atoms_per_batch=arguments.atoms_per_batch,
        compile=arguments.compile,
    )
    pairs = load_pairs(arguments.data, dtype=torch.float32).in_split("train").to(arguments.device)
    print(f"{len(pairs)} pairs, {len(pairs.numbers)} atoms on {arguments.device}")
    if arguments.compile:  # a throw-away run, so that compiling does not eat into the first member's budget
        with TemporaryDirectory() as folder:  # not kept: a checkpoint there would leave the next call uncompiled
            train(pairs, config, replace(settings, seconds=0.1, max_steps=None), folder, deadline=deadline)
    for member in range(arguments.members):
        out = arguments.out / f"member{member}"
        if (out / "weights.safetensors").exists():
            continue
        network = train(pairs, config, replace(settings, seed=arguments.seed + member), out, deadline=deadline)
        if network is None:
            print(f"time limit reached in member {member}; the same command continues it")
            return
        metadata = {"config": json.dumps(config.to_dict()), "seed": str(arguments.seed + member)}
        save_file({k: p.contiguous() for k, p in network.state_dict().items()}, out / "weights.safetensors", metadata)
        print(f"member {member} finished")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deeprelax_ase.training",
        description=main.__doc__,
        epilog="example: python -m deeprelax_ase.training pairs.npz --out run --seconds 200 --device cuda --compile",
    )
    parser.add_argument("data", nargs="+", help="npz files of relaxation pairs; their train split is used")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, logs and checkpoints")
    parser.add_argument("--members", type=int, default=5, help="size of the ensemble (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=600.0, help="budget per member (default %(default)s)")
    parser.add_argument("--max-steps", type=int, help="budget per member in steps instead of seconds")
    parser.add_argument("--time-limit", type=float, help="stop this call after so many seconds, checkpointed")
    parser.add_argument("--variant", choices=sorted(ABLATIONS), help="a network of the paper's table 4 instead of ours")
    parser.add_argument("--channels", type=int, default=128, help="features per atom (default %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="peak rate (default %(default)s)")
    parser.add_argument("--atoms-per-batch", type=int, default=8000, help="default %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="fuse kernels with torch.compile")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first member (default %(default)s)")
    return parser


if __name__ == "__main__":
    main()
