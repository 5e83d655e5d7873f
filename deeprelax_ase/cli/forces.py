"""``deeprelax data forces``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from deeprelax_ase.cli.common import refuse_taken, stopping
from deeprelax_ase.cli.completion import models
from deeprelax_ase.cli.options import Device, DeviceOption, NoProgress, Overwrite, argument, option, workers_option
from deeprelax_ase.models.card import MOST_RECYCLES

EXAMPLES = """\
Examples:

    export DEEPRELAX_M3GNET=path/to/M3GNet-MP-2021.2.8-PES
    deeprelax data forces pairs.npz -o forces.npz
    deeprelax train run.yaml --set data.forces=[forces.npz]
"""

Workers = Annotated[int | None, workers_option("one for each core")]
Model = Annotated[str, option("Its last member predicts.", "-m", "--model", metavar="NAME", completes=models)]
Recycles = Annotated[int, option("Of the prediction.", metavar="N", min=1, max=MOST_RECYCLES)]


def forces(
    data: Annotated[Path, argument("PAIRS.npz", "Relaxation pairs with M3GNet's labels; those for training count.")],
    output: Annotated[Path, option("File to write.", "-o", "--output", metavar="FORCES.npz")],
    model: Model = "DeepRelax-M3GNet",
    recycles: Recycles = 1,
    workers: Workers = None,
    seed: Annotated[int, option("Of the points.", metavar="N")] = 0,
    device: DeviceOption = Device.AUTO,
    overwrite: Overwrite = False,
    quiet: NoProgress = False,
) -> None:
    """Compute M3GNet's forces between predictions and its minima, for a network to learn to read them.

    They are for training: `data.forces` of the file that `deeprelax train` takes.
    """
    refuse_taken(output, overwrite=overwrite)
    import torch

    from deeprelax_ase.labelling.forces import label_forces
    from deeprelax_ase.progress import silent

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers: BLAS has threads of its own
    with stopping(also=KeyError), silent(quiet):
        written, points = label_forces(
            data, output, model=model, recycles=recycles, device=device.value, workers=workers, seed=seed
        )
    typer.echo(f"{written} of {points} points written to {output}")
