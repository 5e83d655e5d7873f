"""Predictions and baselines measured on the same pairs, in one run on one machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from deeprelax_ase.bench.baselines import BASELINES, TITLES, Limits, Relax, Relaxed
from deeprelax_ase.bench.environment import environment
from deeprelax_ase.calibration import COVERAGE
from deeprelax_ase.data import Pairs, crystals_of
from deeprelax_ase.metrics import rank_correlation
from deeprelax_ase.prediction import Prediction
from deeprelax_ase.predictor import Predictor
from deeprelax_ase.structure import Crystal
from deeprelax_ase.training.evaluate import errors

#: Crystals that are relaxed beforehand, untimed.
_WARM_UP = 2

#: Told of each row: its name, and how many crystals it is of; returns what tells that another one is done.
Observe = Callable[[str, int], Callable[[], object]]


def bench(
    pairs: Pairs,
    model: str,
    *,
    baselines: Iterable[str] = ("nothing", "volume", "fire"),
    others: Mapping[str, Relax] | None = None,
    limits: Limits | None = None,
    finish: bool = True,
    device: str = "auto",
    observe: Observe = lambda name, number: lambda: None,
) -> dict[str, Any]:
    """Measure a model and the ``baselines`` on ``pairs``.

    Args:
        pairs: unrelaxed and relaxed crystals.
        model: by name or path.
        baselines: names of :data:`~deeprelax_ase.bench.baselines.BASELINES`.
        others: further ones, by the name in the table.
        limits: of the iterative ones.
        finish: also relax the predictions with the first iterative baseline, to count the force calls that they save.
        device: of the predictions.
        observe: is told what is measured.

    Returns:
        As JSON can hold it: ``environment``, ``crystals``, ``atoms``, ``rows`` by name with ``crystals_per_second`` and
        errors (Å, relative), ``uncertainty`` of the model, and ``force_calls`` with and without the jump. A baseline
        that cannot be made has a row with ``failed`` alone.

    Raises:
        ValueError: there is no such baseline.
        ModelError, DeviceError: see :class:`~deeprelax_ase.predictor.Predictor`.
    """
    limits, chosen = limits or Limits(), list(baselines)
    if unknown := [name for name in chosen if name not in BASELINES]:
        raise ValueError(f"Unknown baselines {unknown}, must be of {tuple(BASELINES)}")
    crystals = crystals_of(pairs, "initial")
    found: dict[str, Any] = {
        "environment": environment(),
        "crystals": len(crystals),
        "atoms": sum(len(c) for c in crystals),
        "fmax": limits.fmax,
        "steps": limits.steps,
        "rows": {},
    }
    jumps: list[Prediction | None] = []
    for passes, members in ((None, None), (1, 1)):
        predictor = Predictor(model, device=device, passes=passes, members=members, graph_backend="torch")
        name = f"{predictor.model_name}, {predictor.passes} x {len(predictor.model.networks)}"
        made: list[Prediction | None] = []
        found["rows"][name] = measured(pairs, crystals, _predicts(predictor, made), observe(name, len(crystals)))
        if not jumps:
            jump_rate = found["rows"][name]["crystals_per_second"]
            jumps = made[-len(crystals) :]
            found["device"] = str(predictor.device)
            found["uncertainty"] = _uncertainty(pairs, jumps)
    for name, relax in (others or {}).items():
        try:
            found["rows"][name] = measured(pairs, crystals, relax, observe(name, len(crystals)))
        except Exception as error:  # whatever it raises costs its row
            found["rows"][name] = {"failed": f"{type(error).__name__}: {error}"}
    for name in chosen:
        try:
            relax = BASELINES[name](limits)
        except Exception as error:  # whatever is not installed
            found["rows"][TITLES[name]] = {"failed": f"{type(error).__name__}: {error}"}
            continue
        row = measured(pairs, crystals, relax, observe(TITLES[name], len(crystals)))
        found["rows"][TITLES[name]] = row
        if finish and row.get("calls") and "force_calls" not in found:
            starts = [c if p is None else p.relaxed for c, p in zip(crystals, jumps, strict=True)]
            after = f"jump, then {TITLES[name]}"
            again = found["rows"][after] = measured(pairs, starts, relax, observe(after, len(starts)))
            again["crystals_per_second"] = 1 / (1 / again["crystals_per_second"] + 1 / jump_rate)
            found["force_calls"] = {"from": TITLES[name], "unrelaxed": row["calls"], "jumped": again["calls"]}
    return found


def measured(pairs: Pairs, crystals: list[Crystal], relax: Relax, advance: Callable[[], object]) -> dict[str, Any]:
    """Crystals a second and errors of ``relax``; the first crystals are relaxed beforehand, untimed."""
    relax(crystals[:_WARM_UP], lambda: None)
    start = time.perf_counter()
    made: Relaxed = relax(crystals, advance)
    spent = time.perf_counter() - start
    row: dict[str, Any] = {"crystals_per_second": len(crystals) / spent, **errors_of(pairs, made.crystals)}
    if made.calls is not None:
        row |= {"calls": made.calls, "converged": made.converged}
    return row | ({"crystals_failed": made.failed} if made.failed else {})


def errors_of(pairs: Pairs, crystals: list[Crystal]) -> dict[str, float]:
    """Mean and median error of the coordinates (Å), and the mean relative error of the volume."""
    found = _errors(pairs, crystals)
    return {
        "coordinates": float(found["coordinates"].mean()),
        "coordinates_median": float(np.median(found["coordinates"])),
        "relative_volume": float(found["relative_volume"].mean()),
    }


def _errors(pairs: Pairs, crystals: list[Crystal]) -> dict[str, np.ndarray]:
    scaled = torch.from_numpy(np.concatenate([c.scaled_positions for c in crystals]))
    cells = torch.from_numpy(np.stack([c.cell for c in crystals]))
    return {name: values.numpy() for name, values in errors(pairs, scaled, cells).items()}


def _predicts(predictor: Predictor, kept: list[Prediction | None]) -> Relax:
    """Predicts in batches; ``kept`` is given the predictions, or None where there is none."""

    def relax(crystals: list[Crystal], advance: Callable[[], object]) -> Relaxed:
        made: list[Crystal] = []
        failed = 0
        for crystal, result in zip(crystals, predictor.predict_many(crystals, bonds=False), strict=True):
            sound = isinstance(result, Prediction)
            kept.append(result if isinstance(result, Prediction) else None)
            made.append(result.relaxed if isinstance(result, Prediction) else crystal)
            failed += not sound
            advance()
        return Relaxed(made, failed=failed)

    return relax


def _uncertainty(pairs: Pairs, jumps: list[Prediction | None]) -> dict[str, Any]:
    """Whether expected errors rank crystals as the true ones do, and whether the bounds hold."""
    starts = crystals_of(pairs, "initial")
    true = _errors(pairs, [c if p is None else p.relaxed for c, p in zip(starts, jumps, strict=True)])
    read = [(n, p.error) for n, p in enumerate(jumps) if p is not None and p.error is not None]
    if not read:
        return {}
    chosen = np.array([n for n, _ in read])
    found: dict[str, Any] = {"aimed coverage": COVERAGE, "outside": float(np.mean([e.outside for _, e in read]))}
    for quantity, expected, bound in (
        ("coordinates", [e.coordinates for _, e in read], [e.coordinates_bound for _, e in read]),
        ("relative_volume", [e.volume for _, e in read], [e.volume_bound for _, e in read]),
    ):
        error = true[quantity][chosen]
        found[quantity] = {
            "mean error": float(error.mean()),
            "mean expected": float(np.mean(expected)),
            "coverage": float((error <= np.array(bound)).mean()),
            "rank correlation": rank_correlation(np.array(expected), error),
        }
    return found
