"""Predictions and baselines measured on the same pairs, in one run on one machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.data import LEVELS, RelaxationPairs, crystals_of
from deeprelax_ase.evaluation.baselines import BASELINES, DEFAULT_BASELINES, TITLES, Limits, Relax, Relaxed
from deeprelax_ase.evaluation.environment import environment
from deeprelax_ase.evaluation.evaluator import Evaluator
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.record import Prediction

#: Crystals that are relaxed beforehand, untimed.
_WARM_UP = 2

#: Told of each row: its name, and how many crystals it is of; returns what tells that another one is done.
Observe = Callable[[str, int], Callable[[], object]]


def bench(
    pairs: RelaxationPairs,
    model: str,
    *,
    baselines: Iterable[str] = DEFAULT_BASELINES,
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
        baselines: names of :data:`~deeprelax_ase.evaluation.baselines.BASELINES`.
        others: further ones, by the name in the table.
        limits: of the iterative ones.
        finish: also relax the predictions with the first iterative baseline, to count the force calls that they save.
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
    crystals, judge = crystals_of(pairs, "initial"), Evaluator(pairs)
    rows: dict[str, Any] = {}
    found: dict[str, Any] = {
        "environment": environment(),
        "crystals": len(crystals),
        "atoms": sum(len(c) for c in crystals),
        "fmax": limits.fmax,
        "steps": limits.steps,
        "rows": rows,
    }
    jumps: list[Prediction | None] = []
    for recycles, members in ((None, None), (1, 1)):
        predictor = Predictor(model, device=device, recycles=recycles, members=members, graph_backend="torch")
        name = f"{predictor.model_name}, {predictor.recycles} x {len(predictor.model.networks)}"
        made: list[Prediction | None] = []
        rows[name] = measured(judge, crystals, _predicts(predictor, made), observe(name, len(crystals)))
        if not jumps:
            jumps, jump = made[-len(crystals) :], name
            found["device"] = str(predictor.device)
            found["uncertainty"] = judge.uncertainty(jumps)
            alone = f"{name}, one by one"
            rows[alone] = measured(judge, crystals, _predicts(predictor, [], 1), observe(alone, len(crystals)))
    for name, relax in (others or {}).items():
        rows[name] = _attempt(judge, crystals, relax, observe(name, len(crystals)))
    for name in chosen:
        title = TITLES[name]
        try:
            relax = BASELINES[name](limits)
        except Exception as error:  # whatever is not installed
            rows[title] = _lost(error)
            continue
        row = rows[title] = _attempt(judge, crystals, relax, observe(title, len(crystals)))
        if finish and row.get("calls") and "force_calls" not in found:
            starts = [c if p is None else p.relaxed for c, p in zip(crystals, jumps, strict=True)]
            after = f"jump, then {title}"
            again = rows[after] = _attempt(judge, starts, relax, observe(after, len(starts)))
            if "calls" in again:
                both = 1 / rows[jump]["crystals_per_second"] + 1 / again["crystals_per_second"]
                again["crystals_per_second"] = 1 / both
                found["force_calls"] = {"from": title, "unrelaxed": row["calls"], "jumped": again["calls"]}
    found["notes"] = _notes(pairs, [name for name in chosen if rows[TITLES[name]].get("calls")])
    return found


def measured(judge: Evaluator, crystals: list[Crystal], relax: Relax, advance: Callable[[], object]) -> dict[str, Any]:
    """Crystals a second and errors of ``relax``; the first crystals are relaxed beforehand, untimed."""
    relax(crystals[:_WARM_UP], lambda: None)
    start = time.perf_counter()
    made: Relaxed = relax(crystals, advance)
    spent = time.perf_counter() - start
    row: dict[str, Any] = {"crystals_per_second": len(crystals) / spent, **judge.row(made.crystals)}
    if made.calls is not None:
        row |= {"calls": made.calls, "converged": made.converged}
    return row | ({"crystals_failed": made.failed} if made.failed else {})


def _attempt(judge: Evaluator, crystals: list[Crystal], relax: Relax, advance: Callable[[], object]) -> dict[str, Any]:
    """The same, of code of others': what it raises costs its row and no other."""
    try:
        return measured(judge, crystals, relax, advance)
    except Exception as error:  # whatever libraries raise
        return _lost(error)


def _lost(error: Exception) -> dict[str, str]:
    return {"failed": f"{type(error).__name__}: {error}"}


def _notes(pairs: RelaxationPairs, potentials: list[str]) -> list[str]:
    """What is to be known of the errors: minima of one level of theory are not those of another."""
    foreign = int((pairs.level != LEVELS.index("M3GNet")).sum())
    if not foreign or not potentials:
        return []
    return [
        f"{foreign} of {len(pairs)} relaxed crystals are not M3GNet's minima, where {', '.join(potentials)} end: their "
        "errors hold the difference between the two."
    ]


def _predicts(predictor: Predictor, kept: list[Prediction | None], atoms_per_batch: int | None = None) -> Relax:
    """Predicts, in batches unless told otherwise; ``kept`` is given the predictions, or None where there is none."""

    def relax(crystals: list[Crystal], advance: Callable[[], object]) -> Relaxed:
        made: list[Crystal] = []
        failed = 0
        results = predictor.predict_many(crystals, atoms_per_batch=atoms_per_batch, bonds=False)
        for crystal, result in zip(crystals, results, strict=True):
            sound = isinstance(result, Prediction)
            kept.append(result if isinstance(result, Prediction) else None)
            made.append(result.relaxed if isinstance(result, Prediction) else crystal)
            failed += not sound
            advance()
        return Relaxed(made, failed=failed)

    return relax
