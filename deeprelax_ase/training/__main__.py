"""``python -m deeprelax_ase.training CONFIG.yaml``: ``deeprelax train`` for machines without ASE and typer."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

from deeprelax_ase.training.config import ConfigError, load_config
from deeprelax_ase.training.run import train_model


def main() -> None:
    """Train; a call that hits its time limit is continued by the same call."""
    parser = argparse.ArgumentParser(prog="python -m deeprelax_ase.training", description=main.__doc__)
    parser.add_argument("config", type=Path, help="YAML file of the run")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="repeatable")
    parser.add_argument("--time-limit", type=float, help="stop this call after so many seconds, checkpointed")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    deadline = None if arguments.time_limit is None else time.monotonic() + arguments.time_limit
    try:
        card = train_model(load_config(arguments.config, arguments.set), deadline=deadline)
    except ConfigError as error:
        parser.error(str(error))
    print(card if card is not None else "time limit reached; the same command goes on")


if __name__ == "__main__":
    main()
