"""Predictions and baselines measured on the same pairs, in one run on one machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.data import LEVELS, RelaxationPairs, crystals_of
from deeprelax_ase.data.batches import pair_graph
from deeprelax_ase.evaluation.baselines import BASELINES, DEFAULT_BASELINES, TITLES, Advance, Limits, Relax, Relaxed
from deeprelax_ase.evaluation.metrics import crystal_errors, reliability
from deeprelax_ase.evaluation.results import environment
from deeprelax_ase.graph.settings import GraphSettings
from deeprelax_ase.models.card import FAST
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.uncertainty.calibration import COVERAGE

#: Crystals that are relaxed beforehand, untimed.
_WARM_UP = 2

#: Errors that a row holds the means of, see :data:`deeprelax_ase.evaluation.assessment.UNITS`.
METRICS = ("coordinates", "bond_length", "lattice", "relative_volume")

#: Crystals of a bin at the least, and most bins.
_BIN, _BINS = 10, 5

#: Is told of each row: its name, and how many crystals it is of. Returns what is called when another one is done.
Observe = Callable[[str, int], Advance]


def bench(
    pairs: RelaxationPairs,
    model: str,
    *,
    baselines: Iterable[str] = DEFAULT_BASELINES,
    others: Mapping[str, Relax] | None = None,
    limits: Limits | None = None,
    finish: bool = True,
    cost: Mapping[str, Any] | None = None,
    device: str = "auto",
    observe: Observe = lambda name, number: lambda: None,
) -> dict[str, Any]:
    """Measure a model and the ``baselines`` on ``pairs``.

    Args:
        pairs: unrelaxed and relaxed crystals.
        model: by name or path.
        baselines: names of :data:`~deeprelax_ase.evaluation.baselines.BASELINES`.
        others: further ones, by the name in the table.
        limits: of the iterative ones.
        finish: also relax the predictions with the first iterative baseline, to count the force calls that they save.
        cost: of a prediction: one_shot, recycles and members, see :class:`~deeprelax_ase.Predictor`.
        device: of the predictions.
        observe: is told what is measured.

    Returns:
        As JSON can hold it: ``environment``, ``crystals``, ``atoms``, ``rows`` by name with ``crystals_per_second`` and
        errors (Å, relative), ``uncertainty`` of the model, ``force_calls`` with and without the jump, those that
        :class:`~deeprelax_ase.DeepRelaxOptimizer` takes to judge a jump not counted, and ``notes`` on the errors. A
        baseline that cannot be made, or raises, has a row with ``failed`` alone.

    Raises:
        ValueError: there is no such baseline.
        ModelError, DeviceError: see :class:`~deeprelax_ase.Predictor`.
    """
    limits, chosen = limits or Limits(), list(baselines)
    if unknown := [name for name in chosen if name not in BASELINES]:
        raise ValueError(f"Unknown baselines {unknown}, must be of {tuple(BASELINES)}")
    table = _Table(Evaluator(pairs), crystals_of(pairs, "initial"), observe)
    found: dict[str, Any] = {
        "environment": environment(),
        "crystals": len(table.crystals),
        "atoms": sum(len(c) for c in table.crystals),
        "fmax": limits.fmax,
        "steps": limits.steps,
        "rows": table.rows,
    }
    jump, jumps = _predictions(table, model, device, cost or {}, found)
    for name, relax in (others or {}).items():
        table.attempt(name, relax)
    for name in chosen:
        try:
            relax = BASELINES[name](limits)
        except Exception as error:  # whatever is not installed
            table.rows[TITLES[name]] = _lost(error)
            continue
        row = table.attempt(TITLES[name], relax)
        if finish and row.get("calls") and "force_calls" not in found:
            found |= _finished(table, TITLES[name], relax, jump, jumps)
    found["notes"] = _notes(pairs, [name for name in chosen if table.rows[TITLES[name]].get("calls")])
    return found


@dataclass(frozen=True, eq=False)
class _Table:
    """The rows that are measured on ``crystals``."""

    evaluator: Evaluator
    crystals: list[Crystal]
    observe: Observe
    rows: dict[str, Any] = field(default_factory=dict)

    def measure(self, name: str, relax: Relax, crystals: list[Crystal] | None = None) -> dict[str, Any]:
        """Measure crystals a second and errors of ``relax``, from other ``crystals`` where they are given.

        The first crystals are relaxed beforehand, untimed.
        """
        crystals = self.crystals if crystals is None else crystals
        advance = self.observe(name, len(crystals))
        relax(crystals[:_WARM_UP], lambda: None)
        start = time.perf_counter()
        made: Relaxed = relax(crystals, advance)
        spent = time.perf_counter() - start
        row: dict[str, Any] = {"crystals_per_second": len(crystals) / spent, **self.evaluator.row(made.crystals)}
        if made.calls is not None:
            row |= {"calls": made.calls, "converged": made.converged}
        self.rows[name] = row | ({"crystals_failed": made.failed} if made.failed else {})
        return self.rows[name]

    def attempt(self, name: str, relax: Relax, crystals: list[Crystal] | None = None) -> dict[str, Any]:
        """Measure code of others likewise: an error costs its row and no other."""
        try:
            return self.measure(name, relax, crystals)
        except Exception as error:  # whatever libraries raise
            self.rows[name] = _lost(error)
            return self.rows[name]


def _predictions(
    table: _Table, model: str, device: str, cost: Mapping[str, Any], found: dict[str, Any]
) -> tuple[str, list[Prediction | None]]:
    """Rows of the model: as it is, one by one, and its fastest; the first row's name and predictions."""
    predictor = Predictor(model, device=device, **cost)
    name = _name_of(predictor)
    made: list[Prediction | None] = []
    table.measure(name, _predicts(predictor, made))
    jumps = made[-len(table.crystals) :]
    found["device"] = str(predictor.device)
    found["uncertainty"] = table.evaluator.uncertainty(jumps)
    table.measure(f"{name}, one by one", _predicts(predictor, [], 1))
    fastest = Predictor(model, device=device, one_shot=FAST)
    table.measure(_name_of(fastest), _predicts(fastest, []))
    return name, jumps


def _name_of(predictor: Predictor) -> str:
    return f"{predictor.model_name}, {predictor.recycles} x {len(predictor.model.networks)}"


def _predicts(predictor: Predictor, kept: list[Prediction | None], atoms_per_batch: int | None = None) -> Relax:
    """Predicts, in batches unless told otherwise; ``kept`` is given the predictions, or None where there is none."""

    def relax(crystals: list[Crystal], advance: Advance) -> Relaxed:
        results = []
        for result in predictor.predict_many(crystals, atoms_per_batch=atoms_per_batch, bonds=False):
            results.append(result if isinstance(result, Prediction) else None)
            advance()
        kept.extend(results)
        return Relaxed(_relaxed(crystals, results), failed=results.count(None))

    return relax


def _relaxed(crystals: list[Crystal], jumps: list[Prediction | None]) -> list[Crystal]:
    return [c if p is None else p.relaxed for c, p in zip(crystals, jumps, strict=True)]


def _finished(
    table: _Table, title: str, relax: Relax, jump: str, jumps: list[Prediction | None]
) -> dict[str, dict[str, Any]]:
    """Adds a row of ``relax`` from the predictions, whose time counts; the force calls that these save."""
    again = table.attempt(f"jump, then {title}", relax, _relaxed(table.crystals, jumps))
    if "calls" not in again:
        return {}
    both = 1 / table.rows[jump]["crystals_per_second"] + 1 / again["crystals_per_second"]
    again["crystals_per_second"] = 1 / both
    return {"force_calls": {"from": title, "unrelaxed": table.rows[title]["calls"], "jumped": again["calls"]}}


def _lost(error: Exception) -> dict[str, str]:
    return {"failed": f"{type(error).__name__}: {error}"}


def _notes(pairs: RelaxationPairs, potentials: list[str]) -> list[str]:
    """Write notes to the errors, as minima of one level of theory are not those of another."""
    foreign = int((pairs.level != LEVELS.index("M3GNet")).sum())
    if not foreign or not potentials:
        return []
    return [
        f"{foreign} of {len(pairs)} relaxed crystals are not M3GNet's minima, where {', '.join(potentials)} end: their "
        "errors hold the difference between the two."
    ]


class Evaluator:
    """Compares with the relaxed crystals of ``pairs``."""

    def __init__(self, pairs: RelaxationPairs) -> None:
        self.pairs = pairs.to("cpu").double()
        self._graph = pair_graph(self.pairs, GraphSettings())

    def row(self, crystals: Sequence[Crystal]) -> dict[str, float]:
        """Means of :data:`METRICS`, and the median of the coordinates' errors (Å)."""
        found = crystal_errors(self.pairs, crystals, graph=self._graph)
        means = {name: float(found[name].mean()) for name in METRICS}
        return means | {"coordinates_median": float(np.median(found["coordinates"]))}

    def uncertainty(self, jumps: Sequence[Prediction | None]) -> dict[str, Any]:
        """Compare expected errors with the true ones, by their size and rank, and measure how often the bounds hold.

        Args:
            jumps: of each crystal, None where there is none.

        Returns:
            Nothing for a model without calibrated errors. ``bins`` are of equally many crystals, by expected error.
        """
        read = [(n, p.relaxed, p.error) for n, p in enumerate(jumps) if p is not None and p.error is not None]
        if not read:
            return {}
        chosen, crystals, told = zip(*read, strict=True)
        true = crystal_errors(self.pairs.take(torch.tensor(chosen)), crystals)
        found: dict[str, Any] = {"aimed coverage": COVERAGE, "ood": float(np.mean([e.ood for e in told]))}
        for quantity, expected, bounds in (
            ("coordinates", [e.coordinates for e in told], [e.coordinates_bound for e in told]),
            ("relative_volume", [e.volume for e in told], [e.volume_bound for e in told]),
        ):
            error, told_error = true[quantity], np.array(expected)
            found[quantity] = reliability(error, told_error, np.array(bounds)) | {"bins": bins(error, told_error)}
        return found


def bins(error: np.ndarray, expected: np.ndarray) -> list[dict[str, Any]]:
    """Mean expected and true errors of bins of equally many crystals, by expected error."""
    parts = np.array_split(np.argsort(expected, kind="stable"), min(_BINS, max(1, len(error) // _BIN)))
    return [
        {"crystals": len(part), "expected": float(expected[part].mean()), "error": float(error[part].mean())}
        for part in parts
    ]
