"""Crystals on the page, one by one: what became of each, its cell in numbers, and its drawing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import plotly.graph_objects as go
from ase.geometry import cell_to_cellpar
from markupsafe import Markup

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import DeepRelaxError, ModelError
from deeprelax_ase.prediction.display import expected_errors
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.prediction.status import ACCEPTED, UNCERTAIN, UNCHANGED, UNRELAXED
from deeprelax_ase.report import views
from deeprelax_ase.report.crystal_pairs import Pair
from deeprelax_ase.report.results import Results

#: Names of the numbers on a cell.
CELL = ("a (Å)", "b (Å)", "c (Å)", "α (°)", "β (°)", "γ (°)", "V (Å³)")

#: Å. A prediction made again that is further from the stored one than this is another one.
_SAME = 0.02


@dataclass
class StructureCard:
    """A crystal on the page: its title, words beside it, rows of numbers on its cell, remarks, and its drawing."""

    place: int
    title: str
    tags: list[str]
    cell: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    scene: Markup | None = None
    prediction: Prediction | None = None


def shown_crystals(
    results: Results, pairs: Mapping[int, Pair], chosen: Mapping[int, str], *, model: str | None, device: str
) -> list[StructureCard]:
    """The crystals that are ``chosen``.

    Args:
        results: that they are of.
        pairs: the crystals before and after, by place.
        chosen: reasons for showing each, by place.
        model: predicts the uncertainties of their bonds; by default the one that relaxed each.
        device: for these predictions.

    Raises:
        ModelError: there is no such ``model``.
        DeviceError: there is no such device.
    """

    @cache
    def predictor(name: str) -> Predictor:
        return results.predictor(name, device)

    def predicted(pair: Pair) -> Prediction:
        assert pair.initial is not None
        name = model or ("" if results.places is not None else pair.model or "")
        if not name and results.places is None:
            raise ModelError("It is not known which model relaxed it: name one with --model.")
        return predictor(name).predict(pair.initial, relax_cell=results.relax_cell)

    if model is not None:
        predictor(model)
    return [_shown(pairs[place], why, predicted) for place, why in chosen.items()]


def _shown(pair: Pair, why: str, predicted: Any) -> StructureCard:
    crystal = pair.initial or pair.relaxed
    formula = f": {crystal.to_atoms().get_chemical_formula('metal')}" if crystal is not None else ""
    shown = StructureCard(pair.place, f"{pair.name}{formula}", [why])
    if pair.status not in (why, ACCEPTED):
        shown.tags.append(pair.status)
    if pair.reason:
        shown.notes.append(pair.reason)
    if pair.status in UNRELAXED:
        return _alone(shown, pair.initial)
    if pair.initial is None or pair.relaxed is None:
        shown.notes.append("Not drawn: its unrelaxed form is not known.")
        return shown
    shown.cell = _cell_rows(pair.initial, pair.relaxed)
    if len(pair.initial) > views.LARGEST:
        shown.notes.append(f"Not drawn: {len(pair.initial):,} atoms.")
        return shown
    try:
        again = predicted(pair)
    except DeepRelaxError as error:
        shown.notes.append(f"Without the uncertainties of its bonds: {error}")
        scene, longer = views.before_and_after(pair.initial, pair.relaxed)
    else:
        shown.tags += _tags(again)
        shown.notes += _differences(again, pair)
        shown.prediction = replace(again, relaxed=pair.relaxed)
        scene, longer = views.before_and_after(pair.initial, pair.relaxed, again.uncertainty)
    if longer > 1:
        told = f"{longer:.1f}" if longer < 10 else f"{longer:,.0f}"
        shown.notes.append(f"Arrows are {told} times as long as the moves.")
    shown.scene = json_of(scene)
    return shown


def _alone(shown: StructureCard, crystal: Crystal | None) -> StructureCard:
    """Add a drawing of the ``crystal`` that could not be relaxed, unless it is too strange to be drawn."""
    sound = crystal is not None and np.isfinite(crystal.positions).all() and np.isfinite(crystal.cell).all()
    if crystal is None or not sound or not 0 < len(crystal) <= views.LARGEST:
        return shown
    shown.cell = [_cell_row("unrelaxed", crystal)]
    shown.scene = json_of(views.alone(crystal))
    return shown


def _tags(prediction: Prediction) -> list[str]:
    tags = [f"uncertainty {prediction.uncertainty.total:.3f} Å"]
    if prediction.error is not None:
        tags.append(expected_errors(prediction.error))
        tags += ["unlike what the model knows"] if prediction.error.ood else []
    return tags


def _differences(prediction: Prediction, pair: Pair) -> list[str]:
    """Explain a difference between the crystal that is drawn and the prediction; empty where there is none."""
    assert pair.relaxed is not None
    apart = float(np.abs(prediction.relaxed.positions - pair.relaxed.positions).max())
    if apart < _SAME:
        return []
    if pair.status in (ACCEPTED, UNCHANGED, UNCERTAIN):
        why = "it was predicted by another model or with other options, or changed since"
    else:
        why = "a calculator, or another program, finished it"
    return [f"Atoms are up to {apart:.2f} Å from where they are predicted: {why}. Uncertainties are the prediction's."]


def _cell_rows(initial: Crystal, relaxed: Crystal) -> list[dict[str, Any]]:
    before, after = _parameters(initial), _parameters(relaxed)
    lengths = [f"{100 * (b / a - 1):+z.1f} %" for a, b in zip(before, after, strict=True)]
    angles = [f"{b - a:+z.2f}°" for a, b in zip(before, after, strict=True)]
    change = [*lengths[:3], *angles[3:6], lengths[6]]
    return [_cell_row("unrelaxed", initial), _cell_row("relaxed", relaxed), {"name": "change", "numbers": change}]


def _cell_row(name: str, crystal: Crystal) -> dict[str, Any]:
    return {"name": name, "numbers": [f"{value:.2f}" for value in _parameters(crystal)]}


def _parameters(crystal: Crystal) -> list[float]:
    return [*cell_to_cellpar(crystal.cell).tolist(), crystal.volume]


def json_of(data: Any) -> Markup:
    """Write a figure of plotly, or plain ``data``, as JSON for a script element. No text in it can end the element."""
    text = data.to_json() if isinstance(data, go.Figure) else json.dumps(data, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))
