"""How often a prediction that is accepted ends further from the minimum than the crystal began, by kind of crystal.

python benchmarks/never_worse.py pairs_universal.npz pairs_xmno.npz pairs_generated_?.npz --cache predicted \\
    --json benchmarks/results/never_worse-PBE.json

Further off: by more than 0.0001 Å in the mean absolute component of the coordinates, cell and origin apart; volumes,
by more than 0.01 %, are told beside it.
Accepted as by ``prediction.judgement``, but for novelty, which flags some more. Test crystals measure what validation
crystals have set.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from shared import options

from deeprelax_ase import Predictor
from deeprelax_ase.data import crystals_of
from deeprelax_ase.data.pairs import has_labels
from deeprelax_ase.evaluation.cached_predictions import expected
from deeprelax_ase.evaluation.calibrate import PredictedSplit, labels_for, predict_split, uncalibrated
from deeprelax_ase.evaluation.metrics import crystal_errors
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.models.loading import load_model
from deeprelax_ase.prediction.judgement import likely_worse
from deeprelax_ase.uncertainty.calibration import Calibration
from deeprelax_ase.uncertainty.kinds import KINDS as PREDICTED_KINDS
from deeprelax_ase.uncertainty.worsening import MAX_ODDS_WORSE, ZERO

#: Kinds of generated pairs, by the number that their files give.
KINDS = {
    0: "elements substituted",
    4: "substituted, strained and rattled",
    5: "one sublattice shared by two elements",
    6: "vacancy or dopants, cell free",
    7: "layers",
    8: "slabs, cell kept",
    9: "vacancy or dopants, cell kept",
    10: "back to published crystals",
    11: "ionic",
}
#: Name of the row of their mean.
MEAN = "the nine kinds in equal parts"

#: Largest odds, of the curve of what is accepted.
CURVE = (0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.5, 1.0)


def measure(split: PredictedSplit, calibration: Calibration) -> dict[str, np.ndarray]:
    """Arrays (n,) of each crystal: errors before and after, odds, and what is thought of it."""
    predicted, pairs, _ = split
    starts = crystals_of(pairs, "initial")
    errors, left = expected(calibration, starts, predicted)
    before, after = crystal_errors(pairs, starts), crystal_errors(pairs, predicted.crystals)
    return {
        "before": before["coordinates"],
        "after": after["coordinates"],
        "volume_before": before["relative_volume"],
        "volume_after": after["relative_volume"],
        "odds": np.array([e.odds_worse for e in errors], dtype=float),
        "counted_odds": np.array([e.odds_judged or 0.0 for e in errors]),
        "likely_worse": np.array([likely_worse(e, MAX_ODDS_WORSE) for e in errors]),
        "ood": np.array([e.ood for e in errors]),
        "left": np.array([bool(why) for why in left]),
    }


def row(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """What a table says of these crystals."""
    gain, volume_gain = found["before"] - found["after"], found["volume_before"] - found["volume_after"]
    worse = gain < -ZERO
    handed, exact = ~found["left"], found["before"] <= ZERO
    accepted = handed & ~found["ood"] & ~found["likely_worse"]
    curve = [
        {
            "odds": limit,
            "accepted": float((these := found["counted_odds"] <= limit).mean()),
            "worse": _mean(worse[these]),
            "gain": float(gain[these].sum() / gain.sum()),
        }
        for limit in CURVE
    ]
    return {
        "crystals": len(gain),
        "worse": float(worse.mean()),
        "exact": int(exact.sum()),
        "exact_worse": _mean(worse[exact]),
        "unchanged": float(found["left"].mean()),
        "accepted": float(accepted.mean()),
        "accepted_worse": _mean(worse[accepted]),
        "accepted_worse_volume": _mean((volume_gain < -ZERO)[accepted]),
        "uncertain_worse": _mean(worse[handed & ~accepted]),
        "odds": float(found["odds"].mean()),
        "before": float(found["before"].mean()),
        "gain": float(gain.mean()),
        "gain_handed_out": float(gain[handed].sum() / len(gain)),
        "gain_accepted": float(gain[accepted].sum() / len(gain)),
        "curve": curve,
    }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def main() -> None:
    """Measure, and write JSON."""
    given = options(__doc__, "data", "--model", "--each", "--every", "--cache", "--device", "--json").parse_args()
    model = load_model(given.model)
    calibration = Calibration.of_card(model.card.calibration, model.card.recycles)
    if calibration is None:
        raise SystemExit(f"{given.model} has no calibration: deeprelax calibrate --write")
    raw = Predictor(uncalibrated(model), device=given.device)
    parts: dict[str, list[dict[str, np.ndarray]]] = {}
    for file in given.data:
        own = labels_for(model.card.level)
        labels = own if has_labels(file, own) else "relaxed"
        taken = {"thin": given.every, "each": given.each, "cache": given.cache}
        split = predict_split(raw, [file], "test", labels=labels, **taken)
        found, kind = measure(split, calibration), split.pairs.kind.numpy()
        for number in np.unique(kind):
            chosen = {name: values[kind == number] for name, values in found.items()}
            parts.setdefault(KINDS.get(int(number), file.stem.removeprefix("pairs_")), []).append(chosen)
    rows = {
        name: row({key: np.concatenate([part[key] for part in of_kind]) for key in of_kind[0]})
        for name, of_kind in parts.items()
    }
    facts: dict[str, Any] = {"environment": environment(), "model": raw.model_name, "limit": MAX_ODDS_WORSE}
    if (law := calibration.worsening) is not None:
        facts["margins"] = dict(zip(PREDICTED_KINDS, law.margins, strict=True))
    write_json(given.json, {**facts, "every": given.every, "each": given.each, "rows": rows})


if __name__ == "__main__":
    main()
