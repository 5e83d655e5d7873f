"""How fast training is, and how long the GPU waits for it.

python benchmarks/training_speed.py pairs_universal.npz pairs_xmno.npz --json benchmarks/results/training_speed.json

Trains the end-to-end network of 8.9 million parameters (and the paper's) for some seconds each with Lightning, and once
more for a few steps under torch's profiler: the GPU is idle where no kernel runs. --members compares an ensemble whose
members are trained in turn with one whose members are batched by torch.func.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state
from torch.profiler import ProfilerActivity, profile

from deeprelax_ase.data import RelaxationPairs, load_pairs
from deeprelax_ase.data.batches import pair_graph
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.nn import ABLATIONS, DeepRelax, DeepRelaxConfig
from deeprelax_ase.training import TrainingSettings, train
from deeprelax_ase.training.batches import BatchStream
from deeprelax_ase.training.loss import deeprelax_loss
from deeprelax_ase.training.settings import E3_NETWORK, E3_TRAINING
from deeprelax_ase.training.tasks import pair_truth

#: Channels of the end-to-end network that make 8.9 million parameters.
WIDE = 256


def runs(compiled: bool) -> dict[str, tuple[Any, TrainingSettings]]:
    """Network and settings of each row."""
    wide = replace(E3_NETWORK, channels=WIDE)
    settings = replace(E3_TRAINING, compile=compiled, log_every=10)
    plain = TrainingSettings(atoms_per_batch=8000, log_every=10, compile=compiled)
    still = replace(plain.augmentation, interpolated=0, relaxed=0, strained=0, rattled=0, rewrapped=0)
    return {
        "end-to-end, 256 channels": (wide, settings),
        "end-to-end, 256 channels, pairs moved batch by batch": (wide, replace(settings, resident="never")),
        "end-to-end, 192 channels": (E3_NETWORK, settings),
        "paper's": (ABLATIONS["DeepRelax"], plain),
        "paper's, without augmentation, graphs kept": (ABLATIONS["DeepRelax"], replace(plain, augmentation=still)),
        "paper's, without augmentation, graphs rebuilt": (
            ABLATIONS["DeepRelax"],
            replace(plain, augmentation=still, keep_graphs=False),
        ),
    }


def speed(
    pairs: RelaxationPairs, config: Any, settings: TrainingSettings, device: str, *, steps: int, warm: int
) -> dict:
    """Crystals per second over ``steps`` steps after ``warm`` ones, and the share of the time that the GPU is idle."""
    records: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        limited = replace(settings, max_steps=warm + steps, log_every=warm)
        network = train(pairs, config, limited, folder, device=device, observe=records.append)
    timed = [record["crystals_per_second"] for record in records if record["step"] > warm]
    row: dict[str, Any] = {
        "parameters": sum(p.numel() for p in network.parameters()),
        "crystals_per_second": sum(timed) / len(timed),
        "atoms_per_crystal": float(pairs.counts.double().mean()),
    }
    if device == "cuda":
        row["idle_share"] = idle_share(pairs, config, settings, device)
        row["peak_memory_GB"] = torch.cuda.max_memory_allocated() / 1e9
    return row


def idle_share(
    pairs: RelaxationPairs, config: Any, settings: TrainingSettings, device: str, *, steps: int = 40
) -> float:
    """Share of the time of ``steps`` steps, once everything is compiled, during which no kernel ran.

    The profiler slows the host down, so that a GPU that waits for it waits longer than it otherwise would.
    """
    profiled = profile(activities=[ProfilerActivity.CUDA])

    def observe(record: dict[str, Any]) -> None:
        if record["step"] == steps:
            profiled.start()
        elif record["step"] == 2 * steps:
            profiled.stop()

    with TemporaryDirectory() as folder:
        limited = replace(settings, max_steps=2 * steps + 1, log_every=steps)
        train(pairs, config, limited, folder, device=device, observe=observe)
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiled.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    return idle(spans, spans[0][0], max(stop for _, stop in spans))


def idle(spans: Sequence[tuple[float, float]], begin: float, end: float) -> float:
    """Share of the time from ``begin`` to ``end`` that none of the ``spans``, sorted by their starts, covers."""
    covered, reached = 0.0, begin
    for start, stop in spans:
        start, stop = max(start, reached), min(stop, end)
        if stop > start:
            covered += stop - start
            reached = stop
    return 1 - covered / (end - begin)


def ensemble_speed(
    pairs: RelaxationPairs, config: DeepRelaxConfig, device: str, *, members: int, atoms: int, steps: int
) -> dict:
    """Crystals times members per second: gradients of an ensemble in turn, and batched by ``torch.func``."""
    networks = [DeepRelax(config).to(device) for _ in range(members)]
    stream = iter(BatchStream(pairs.counts, atoms, seed=0))
    batches = [pairs.take(next(stream)[0]) for _ in range(steps + 3)]
    graphs = [pair_graph(batch, config.graph) for batch in batches]
    parameters, buffers = stack_module_state(networks)  # type: ignore[arg-type]

    def loss_of(network: Callable[..., Any], n: int) -> Tensor:
        truth = pair_truth(batches[n], graphs[n], config)
        return deeprelax_loss(network(graphs[n], anchor_cell=truth.cell), truth)["loss"]

    def in_turn(n: int) -> None:
        for network in networks:
            network.zero_grad(set_to_none=True)
            loss_of(network, n).backward()

    def batched(n: int) -> None:
        def one(weights: dict[str, Tensor], rest: dict[str, Tensor]) -> Tensor:
            return loss_of(lambda graph, **options: functional_call(networks[0], (weights, rest), (graph,), options), n)

        torch.func.vmap(torch.func.grad(one))(parameters, buffers)

    row: dict[str, Any] = {"members": members, "atoms_per_batch": atoms}
    crystals = sum(len(batch) for batch in batches[3:]) * members
    for name, step in (("in_turn", in_turn), ("batched", batched)):
        start = 0.0
        try:
            for n in range(steps + 3):
                if n == 3:
                    _wait(device)
                    start = time.perf_counter()
                step(n)
            _wait(device)
            row[f"{name}_crystals_per_second"] = crystals / (time.perf_counter() - start)
        except RuntimeError as error:
            row[f"{name}_error"] = str(error).splitlines()[0].split(". ")[0]
    return row


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Time everything, print and write it."""
    arguments = _parser().parse_args()
    pairs = load_pairs(arguments.data, dtype=torch.float32).in_split("train")
    if arguments.share < 1:
        pairs = pairs.take(torch.arange(round(arguments.share * len(pairs))))
    report: dict[str, Any] = {"environment": environment(), "runs": {}}
    for name, (config, settings) in runs(arguments.compile).items():
        if arguments.only and arguments.only not in name:
            continue
        if arguments.atoms_per_batch:
            settings = replace(settings, atoms_per_batch=arguments.atoms_per_batch)
        row = speed(
            pairs.to("cpu" if settings.resident == "never" else arguments.device),
            config,
            settings,
            arguments.device,
            steps=arguments.steps,
            warm=arguments.warm,
        )
        report["runs"][name] = row
        print(name, json.dumps(row), flush=True)
        _keep(report, arguments)
    for atoms in arguments.members:
        row = ensemble_speed(
            pairs.to(arguments.device), ABLATIONS["DeepRelax"], arguments.device, members=5, atoms=atoms, steps=10
        )
        report.setdefault("ensembles", []).append(row)
        print(json.dumps(row), flush=True)
        _keep(report, arguments)


def _keep(report: dict[str, Any], arguments: argparse.Namespace) -> None:
    if arguments.json:
        write_json(arguments.json, report)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="npz files of relaxation pairs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=200, help="steps that are timed (default %(default)s)")
    parser.add_argument("--warm", type=int, default=40, help="steps before them (default %(default)s)")
    parser.add_argument("--share", type=float, default=1.0, help="of the pairs")
    parser.add_argument("--atoms-per-batch", type=int, help="instead of the usual ones")
    parser.add_argument("--only", help="rows whose name contains this")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--members", type=int, nargs="*", default=[500, 8000], help="atoms in the ensembles' batches")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser


if __name__ == "__main__":
    main()
