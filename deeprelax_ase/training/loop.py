"""The training loop: all tensors resident on the device, graphs built there anew for every augmented batch."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from deeprelax_ase.data import Pairs
from deeprelax_ase.graph.record import CrystalGraph, carried_positions, rows_times_matrices
from deeprelax_ase.graph.torch_neighbors import neighbor_graph
from deeprelax_ase.nn import DeepRelax, DeepRelaxConfig
from deeprelax_ase.training.augment import augment
from deeprelax_ase.training.loss import RelaxedGeometry, deeprelax_loss, relaxed_geometry
from deeprelax_ase.training.settings import TrainingSettings

logger = logging.getLogger(__name__)


def train(
    pairs: Pairs,
    config: DeepRelaxConfig,
    settings: TrainingSettings,
    out: str | Path,
    *,
    deadline: float | None = None,
) -> DeepRelax | None:
    """Train one network on all ``pairs``, on the device that they lie on.

    Writes ``log.jsonl`` (losses, gradient norm of every part, throughput), ``settings.json`` and ``checkpoint.pt`` into
    ``out``; a checkpoint found there is continued, with the batches that an uninterrupted run would have seen.

    Args:
        pairs: what to train on.
        config: the network.
        settings: see :class:`TrainingSettings`.
        out: folder of the run.
        deadline: ``time.monotonic()`` at which to stop and leave the rest to a later call, when a machine is lent for a
            shorter time than the run takes.

    Returns:
        The network with its averaged weights; None if the deadline came first.

    Raises:
        ValueError: there are no pairs.
    """
    if not len(pairs):
        raise ValueError("No pairs to train on: is the split of that name empty?")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    device = pairs.counts.device
    torch.manual_seed(settings.seed)
    network = DeepRelax(config).to(device)
    average = AveragedModel(network, multi_avg_fn=_moving_average(settings.average_decay))
    if settings.compile:
        for part in (network.backbone, network.distance_head, network.displacement_head, network.lattice_head):
            part.compile(dynamic=True)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=0.0, weight_decay=settings.weight_decay, betas=(0.9, 0.98), fused=device.type == "cuda"
    )
    generator = torch.Generator(device).manual_seed(settings.seed)
    run = _Run(out / "checkpoint.pt", network, average, optimizer, generator)
    run.resume()
    with (out / "log.jsonl").open("a") as log:
        for chunk in islice(_batches(pairs.counts, settings.atoms_per_batch, settings.seed), run.step, None):
            progress = settings.progress(run.elapsed(), run.step)
            if progress >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = settings.rate(progress)
            batch = pairs.take(chunk)
            parts = _losses(network, augment(batch, settings.augmentation, generator), config, settings)
            optimizer.zero_grad(set_to_none=True)
            parts["loss"].backward()
            norms = clip_gradients(network, settings.clip)
            optimizer.step()
            average.update_parameters(network)
            run.count(len(batch))
            if run.step % settings.log_every == 0:
                _record(log, run, optimizer.param_groups[0]["lr"], parts, norms)
            if deadline is not None and time.monotonic() >= deadline:
                run.save()
                return None
            if run.elapsed() - run.saved > settings.checkpoint_every:
                run.save()
    run.save()
    summary = {"steps": run.step, "seconds": run.elapsed(), "config": config.to_dict(), "training": asdict(settings)}
    (out / "settings.json").write_text(json.dumps(summary, indent=1))
    return cast("DeepRelax", average.module)


def pair_graph(pairs: Pairs, config: DeepRelaxConfig) -> CrystalGraph:
    """The graph of the unrelaxed crystals of ``pairs``, unchecked."""
    batch = pairs.batch
    positions = rows_times_matrices(pairs.scaled_initial, pairs.cell_initial[batch])
    return neighbor_graph(pairs.numbers, positions, pairs.cell_initial, batch, settings=config.graph)


def pair_truth(pairs: Pairs, graph: CrystalGraph, config: DeepRelaxConfig) -> RelaxedGeometry:
    """The true quantities of ``pairs`` on ``graph``, with the anchors that ``config`` measures displacements from."""
    positions = rows_times_matrices(pairs.scaled_relaxed, pairs.cell_relaxed[graph.batch])
    carried = config.distance_baseline == "carried"
    anchors = carried_positions(graph, pairs.cell_relaxed) if carried else graph.positions
    return relaxed_geometry(graph, positions, pairs.cell_relaxed, anchors)


@torch.no_grad()
def clip_gradients(network: nn.Module, limit: float) -> dict[str, Tensor]:
    """Scale the gradient to a norm of at most ``limit``; returns the norms before that, in total and by top-level part.

    A clipped total hides a part that runs away: the norms by part are logged so that it is seen.
    """
    norms = {
        name: nn.utils.get_total_norm([p.grad for p in part.parameters() if p.grad is not None])
        for name, part in network.named_children()
        if any(p.grad is not None for p in part.parameters())
    }
    return {"total": nn.utils.clip_grad_norm_(network.parameters(), limit), **norms}


def _losses(network: nn.Module, batch: Pairs, config: DeepRelaxConfig, settings: TrainingSettings) -> dict[str, Tensor]:
    graph = pair_graph(batch, config)
    truth = pair_truth(batch, graph, config)
    with torch.autocast("cuda", torch.bfloat16, enabled=settings.bfloat16 and graph.cell.is_cuda):
        quantities = network(graph, anchor_cell=truth.cell)
    return deeprelax_loss(
        quantities, truth, lattice_weight=settings.lattice_weight, uncertainty=config.local_uncertainty
    )


def _moving_average(decay: float):
    """Exponential moving average that starts short, so that the initial weights do not linger in short runs."""

    def update(averages: list[Tensor], currents: list[Tensor], step: Tensor) -> None:
        weight = 1 - torch.clamp((1 + step) / (10 + step), max=decay)
        torch._foreach_lerp_(averages, currents, weight.item())

    return update


def _batches(counts: Tensor, atoms: int, seed: int) -> Iterator[Tensor]:
    """Endless epochs in random order, cut into batches (n,) of crystals with about ``atoms`` atoms."""
    generator = torch.Generator(counts.device).manual_seed(seed)
    while True:
        order = torch.randperm(len(counts), device=counts.device, generator=generator)
        bins = torch.div(counts[order].cumsum(0), atoms, rounding_mode="floor")
        yield from order.split([size for size in torch.bincount(bins).tolist() if size])


class _Run:
    """What a checkpoint holds, the wall clock summed over resumes, and the throughput since the last record."""

    def __init__(self, file: Path, network, average, optimizer, generator) -> None:
        self.file, self.step, self.spent = file, 0, 0.0
        self.parts = {"network": network, "average": average, "optimizer": optimizer}
        self.generator = generator
        self.start = time.monotonic()
        self.saved = self.since = 0.0
        self.crystals = 0

    def elapsed(self) -> float:
        return self.spent + time.monotonic() - self.start

    def count(self, crystals: int) -> None:
        self.step += 1
        self.crystals += crystals

    def throughput(self) -> float:
        """Crystals per second since the last call."""
        now = self.elapsed()
        rate = self.crystals / (now - self.since)
        self.since, self.crystals = now, 0
        return rate

    def save(self) -> None:
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"step": self.step, "elapsed": self.elapsed(), "generator": self.generator.get_state()}
        partial = self.file.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.file)
        self.saved = self.elapsed()

    def resume(self) -> None:
        if not self.file.exists():
            return
        state = torch.load(self.file, map_location=self.generator.device, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.generator.set_state(state["generator"].cpu())
        self.step, self.spent = state["step"], state["elapsed"]
        self.saved = self.since = self.elapsed()
        logger.info("continuing at step %d after %.0f s", self.step, self.spent)


def _record(log, run: _Run, learning_rate: float, parts: dict[str, Tensor], norms: dict[str, Tensor]) -> None:
    """One JSON line."""
    record = {
        "step": run.step,
        "seconds": round(run.elapsed(), 1),
        "learning_rate": learning_rate,
        "crystals_per_second": round(run.throughput()),
        **{name: round(value.item(), 4) for name, value in parts.items()},
        "gradient_norm": {name: round(norm.item(), 3) for name, norm in norms.items()},
    }
    log.write(json.dumps(record) + "\n")
    log.flush()
    logger.info("%s", record)
