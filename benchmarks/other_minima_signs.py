"""What is known of a jump before the finish, and how well it tells that the jump ends in a higher minimum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from other_minima_page import APART, SAME

from deeprelax_ase.geometry.strain import logarithmic_strain, matrix_function
from deeprelax_ase.optimizers import JumpCriteria, KnownResults
from deeprelax_ase.optimizers.acceptance import EnergyForces
from deeprelax_ase.prediction.record import Prediction

#: Relaxation that others are held against, and that whose jumps a guard would refuse.
AGAINST, GUARDED = "the unrelaxed crystal, FIRE", "the jump, FIRE"
#: Shares of the jumps that a guard refuses.
REFUSED = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
#: Signs that ask for calls on the way, which the optimizer does not make.
ON_THE_WAY = ("energy halfway over the mean of both ends", "largest rise along the jump")

Rows = dict[str, dict[str, dict[str, Any]]]


def signs(prediction: Prediction, points: Sequence[KnownResults]) -> dict[str, Any]:
    """What is known of a jump before the finish: ``features``, whether it is ``kept``, and the calls that told.

    Args:
        prediction: of the jump.
        points: what the potential finds along it, evenly spaced, from its start to its end.
    """
    atoms = len(prediction.initial)
    energies = np.array([one.energy for one in points]) / atoms
    before, after = (_seen(one, crystal) for one, crystal in _ends(prediction, points))
    kept = not prediction.unchanged and JumpCriteria().judge(before, after, atoms).kept
    slopes = [slope / atoms for slope in _slopes(prediction, points)]
    drop = energies[0] - energies[-1]
    features = _of_network(prediction) | {
        "log atoms": np.log(atoms),
        "log energy drop": _log(drop),
        "energy drop over what the first slope promises": drop / max(-slopes[0] / 2, 1e-3) if slopes[0] < 0 else 3.0,
        "slope before": slopes[0],
        "slope after": slopes[1],
        "change of slope along the jump": slopes[1] - slopes[0],
        "log fmax before": _log(before.fmax),
        "log fmax after": _log(after.fmax),
        ON_THE_WAY[0]: energies[len(energies) // 2] - (energies[0] + energies[-1]) / 2,
        ON_THE_WAY[1]: max(np.diff(energies).max(), 0.0),
    }
    told = {name: round(float(value), 5) for name, value in features.items()}
    return {"features": told, "kept": kept, "calls": 1 + (not prediction.unchanged)}


def _of_network(prediction: Prediction) -> dict[str, float]:
    error, steps = prediction.error, np.linalg.norm(prediction.displacements, axis=1)
    assert error is not None
    assert error.volume is not None
    assert error.novelty is not None
    strain = logarithmic_strain(prediction.initial.cell, prediction.relaxed.cell)
    return {
        "log expected error": _log(error.coordinates),
        "log expected error of the volume": _log(error.volume),
        "log novelty": _log(error.novelty),
        "odds to end further off": float(error.odds_worse or 0),
        "log mean step": _log(steps.mean()),
        "log largest step": _log(steps.max()),
        "log strain": _log(np.linalg.norm(strain)),
        "volume change": abs(prediction.volume_change),
        "log step over expected error": _log(steps.mean() / max(error.coordinates, 1e-4)),
    }


def _log(value: float) -> float:
    return float(np.log(max(value, 1e-4)))


def _ends(prediction: Prediction, points: Sequence[KnownResults]) -> list[tuple[KnownResults, Any]]:
    return [(points[0], prediction.initial), (points[-1], prediction.relaxed)]


def _seen(results: KnownResults, crystal: Any) -> EnergyForces:
    """Energy and largest force as an optimizer of positions and cell sees them."""
    virial = results.stress * crystal.volume / len(crystal)
    return EnergyForces(results.energy, float(np.linalg.norm([*results.forces, *virial], axis=1).max()))


def _slopes(prediction: Prediction, points: Sequence[KnownResults]) -> list[float]:
    """Derivatives of the energy, eV, by the share of the jump, where it starts and where it ends."""
    start, end = prediction.initial, prediction.relaxed
    strain = logarithmic_strain(start.cell, end.cell)
    moved = end.positions @ np.linalg.inv(end.cell) - start.fractional_positions
    ends = (points[0], start.cell, start.volume), (points[-1], start.cell @ matrix_function(np.exp, strain), end.volume)
    return [
        float(volume * np.tensordot(point.stress, strain) - (point.forces * (moved @ cell)).sum())
        for point, cell, volume in ends
    ]


def figures(rows: Rows) -> dict[str, Any]:
    """All that the page tells of ``rows``: relaxations, and ``signs``, by crystal."""
    rows = {name: row for name, row in rows.items() if {AGAINST, GUARDED, "signs"} <= row.keys()}
    runs = list(dict.fromkeys(run for row in rows.values() for run in row if run != "signs"))
    kinds = list(dict.fromkeys(name.partition("/")[0] for name in rows))
    of_kind = {kind: {name: row for name, row in rows.items() if name.startswith(f"{kind}/")} for kind in kinds}
    alone = [run for run in runs if run.startswith("the unrelaxed")]
    spread = np.array(
        [np.ptp([row[run]["energy"] for run in alone]) for row in rows.values() if row.keys() >= {*alone}]
    )
    kept = [row for row in rows.values() if row["signs"]["kept"]]
    higher = _changes(kept, GUARDED) > SAME
    inputs = np.array([list(row["signs"]["features"].values()) for row in kept])
    names = list(kept[0]["signs"]["features"])
    before = [n for n, name in enumerate(names) if name not in ON_THE_WAY]
    scores = {"all": _scores(inputs, higher), "no call on the way": _scores(inputs[:, before], higher)}
    return {
        "runs": {run: _cells(list(rows.values()), run) for run in runs if run != AGAINST},
        "by kind": {kind: _cells(list(own.values()), GUARDED) for kind, own in of_kind.items()},
        "kept": float(np.mean([row["signs"]["kept"] for row in rows.values()])),
        "starts disagree": float((spread > SAME).mean()),
        "refused": [_refused(rows, kept, scores["no call on the way"], share) for share in REFUSED],
        "areas": {name: _area(inputs[:, n], higher) for n, name in enumerate(names)},
        "areas, together": {name: _area(values, higher) for name, values in scores.items()},
    }


def _changes(rows: Sequence[dict[str, Any]], run: str) -> np.ndarray:
    """(n,) eV/atom, how much higher it ends; a jump that is not kept ends where FIRE does."""
    jumps = run.startswith("the jump")
    return np.array(
        [0.0 if jumps and not row["signs"]["kept"] else row[run]["energy"] - row[AGAINST]["energy"] for row in rows]
    )


def _calls(row: dict[str, Any], run: str) -> int:
    """Calls of a run, with those that judge its jump; the results at the end of a jump are the finish's too."""
    if not run.startswith("the jump"):
        return row[run]["calls"]
    return row[run]["calls"] + 1 if row["signs"]["kept"] else row[AGAINST]["calls"] + row["signs"]["calls"] - 1


def _shares(changes: np.ndarray) -> dict[str, float]:
    sides = {"higher": changes > SAME, "higher by 5": changes > APART}
    sides |= {"lower": changes < -SAME, "lower by 5": changes < -APART}
    return {name: float(side.mean()) for name, side in sides.items()} | {"mean": float(changes.mean())}


def _cells(rows: list[dict[str, Any]], run: str) -> dict[str, float]:
    rows = [row for row in rows if run in row]
    calls = np.mean([(_calls(row, run), _calls(row, AGAINST)) for row in rows], axis=0)
    return {"crystals": len(rows), **_shares(_changes(rows, run)), "calls": float(calls[0]), "FIRE's": float(calls[1])}


def _refused(rows: Rows, kept: list[dict[str, Any]], scores: np.ndarray, share: float) -> dict[str, float]:
    """What is left where this ``share`` of the jumps that are ``kept``, those of the highest ``scores``, is refused."""
    changes = _changes(kept, GUARDED)
    chosen = np.argsort(-scores)[: round(share * len(kept))]
    changes[chosen] = 0.0
    more = [kept[n][AGAINST]["calls"] + 1 - _calls(kept[n], GUARDED) for n in chosen]
    others = np.zeros(len(rows) - len(kept))
    return {"share": share, **_shares(np.r_[changes, others]), "calls more": sum(more) / len(rows)}


def _scores(inputs: np.ndarray, higher: np.ndarray) -> np.ndarray:
    """(n,) how much each jump looks like ending ``higher`` (n,), by the other nine tenths of the crystals."""
    inputs = np.column_stack([np.ones(len(inputs)), (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)])
    scores = np.zeros(len(inputs))
    for part in np.array_split(np.random.default_rng(0).permutation(len(inputs)), 10):
        others = np.setdiff1d(np.arange(len(inputs)), part)
        scores[part] = inputs[part] @ _fitted(inputs[others], higher[others].astype(float))
    return scores


def _fitted(inputs: np.ndarray, target: np.ndarray, decay: float = 10.0) -> np.ndarray:
    weights = np.zeros(inputs.shape[1])
    ridge = decay * np.diag(np.r_[0.0, np.ones(len(weights) - 1)])
    for _ in range(30):
        odds = 1 / (1 + np.exp(-inputs @ weights))
        curvature = (inputs * (odds * (1 - odds))[:, None]).T @ inputs + ridge
        weights -= np.linalg.solve(curvature, inputs.T @ (odds - target) + ridge @ weights)
    return weights


def _area(values: np.ndarray, higher: np.ndarray) -> float:
    one, other = values[higher][:, None], values[~higher]
    return float(((one > other) + 0.5 * (one == other)).mean())
