"""The training loop: all tensors resident on the device, graphs built there anew for every augmented batch."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from deeprelax_ase.data import Pairs
from deeprelax_ase.nn import DeepRelax, DeepRelaxConfig, DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.training.settings import TrainingSettings
from deeprelax_ase.training.tasks import task_of

logger = logging.getLogger(__name__)


def train(
    pairs: Pairs,
    config: DeepRelaxConfig | DeepRelaxE3Config,
    settings: TrainingSettings,
    out: str | Path,
    *,
    deadline: float | None = None,
    initial: str | Path | None = None,
) -> DeepRelax | DeepRelaxE3 | None:
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
        initial: safetensors file of weights to start from, see :func:`load_initial`.

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
    task = task_of(pairs, config, settings)
    network = task.network
    if initial is not None:
        load_initial(network, initial)
    average = deepcopy(network).requires_grad_(False)
    if settings.compile:
        task.compile()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=0.0, weight_decay=settings.weight_decay, betas=(0.9, 0.98), fused=device.type == "cuda"
    )
    run = _Run(out / "checkpoint.pt", device, network=network, average=average, optimizer=optimizer, task=task)
    run.resume()
    with (out / "log.jsonl").open("a") as log:
        batches = islice(_batches(pairs.counts, settings.atoms_per_batch, settings.seed), run.step, None)
        for chunk, upcoming in pairwise(batches):
            progress = settings.progress(run.elapsed(), run.step)
            if progress >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = settings.rate(progress)
            parts = task.gradients(chunk, upcoming)
            norms = clip_gradients(network, settings.clip)
            optimizer.step()
            update_average(average, network, settings.average_decay, run.step)
            run.count(len(chunk))
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
    return cast("DeepRelax | DeepRelaxE3", average)


def load_initial(network: nn.Module, file: str | Path) -> None:
    """Weights of an earlier run, of a network of the same shape, which need not have read forces.

    Raises:
        ValueError: the shape is another.
    """
    weights = load_file(file)
    own = {name: weight for name, weight in network.state_dict().items() if name.startswith("forces.")}
    try:
        network.load_state_dict({**own, **weights}, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{file} holds the weights of another network: {error}") from error


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


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average that starts short, so that the initial weights do not linger in short runs."""
    weight = 1 - min((1 + step) / (10 + step), decay) if step else 1.0
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), weight)


def _batches(counts: Tensor, atoms: int, seed: int) -> Iterator[Tensor]:
    """Endless epochs in random order, cut into batches (n,) of crystals with about ``atoms`` atoms."""
    generator = torch.Generator(counts.device).manual_seed(seed)
    while True:
        order = torch.randperm(len(counts), device=counts.device, generator=generator)
        bins = torch.div(counts[order].cumsum(0), atoms, rounding_mode="floor")
        yield from order.split([size for size in torch.bincount(bins).tolist() if size])


class _Run:
    """What a checkpoint holds, the wall clock summed over resumes, and the throughput since the last record."""

    def __init__(self, file: Path, device: torch.device, **parts: Any) -> None:
        self.file, self.step, self.spent = file, 0, 0.0
        self.device, self.parts = device, parts
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
        state |= {"step": self.step, "elapsed": self.elapsed()}
        partial = self.file.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.file)
        self.saved = self.elapsed()

    def resume(self) -> None:
        if not self.file.exists():
            return
        state = torch.load(self.file, map_location=self.device, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
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
