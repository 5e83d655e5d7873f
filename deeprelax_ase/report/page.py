"""The page: one HTML file that holds all it needs, and opens without a network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from deeprelax_ase import __version__
from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.prediction import FAILED, Prediction
from deeprelax_ase.predictor import Predictor
from deeprelax_ase.report import views
from deeprelax_ase.report.charts import charts, coverage
from deeprelax_ase.report.outcome import Outcome, outcome_of, unrelaxed
from deeprelax_ase.structure import Crystal

#: Lines of the table of reasons, and of the failures one by one.
_REASONS, _FAILURES = 20, 100

_CELL = ("a (Å)", "b (Å)", "c (Å)", "α (°)", "β (°)", "γ (°)", "V (Å³)")


@dataclass
class _Shown:
    """A crystal on the page: its title, words beside it, rows of numbers on its cell, a remark, and its drawing."""

    place: int
    title: str
    tags: list[str]
    cell: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""
    figure: Markup | None = None
    prediction: Prediction | None = None


def write_report(
    path: str | os.PathLike,
    page: str | os.PathLike,
    *,
    initial: str | os.PathLike | None = None,
    reference: str | os.PathLike | None = None,
    show: int = 12,
    model: str | None = None,
    figures: str | os.PathLike | None = None,
    device: str = "auto",
    advance: Callable[[str], None] = lambda doing: None,
) -> Outcome:
    """Write a page on what became of the crystals in ``path``.

    The crystals to look at, the failures first, then the most uncertain ones and those of which the volume changes
    most, are predicted again: a screening keeps no uncertainties of bonds.

    Args:
        path, initial, reference: see :func:`~deeprelax_ase.report.outcome.outcome_of`.
        page: HTML file to write; whole or not at all.
        show: how many crystals to draw.
        model: that predicts them; by default the one that predicted most of the others.
        figures: folder for figures for papers, as PNG and SVG, see :mod:`deeprelax_ase.report.static`.
        device: where.
        advance: is told what is being done.

    Returns:
        what the page tells of.

    Raises:
        StructureFileError, OutputError: see :func:`~deeprelax_ase.report.outcome.outcome_of`.
        ModelError, DeviceError: see :class:`~deeprelax_ase.predictor.Predictor`.
        OSError: the page cannot be written.
    """
    advance("reading")
    outcome = outcome_of(path, initial=initial, reference=reference)
    advance("predicting")
    crystals = _crystals(outcome, show, model, device)
    advance("drawing")
    environment = Environment(loader=PackageLoader("deeprelax_ase.report", ""), autoescape=True)
    text = environment.get_template("page.html.jinja").render(
        title=f"Relaxed crystals: {Path(outcome.name).name}",
        subtitle=_subtitle(outcome),
        facts=_facts(outcome),
        reasons=outcome.reasons.most_common(_REASONS),
        failures=outcome.failures[:_FAILURES],
        crystals=crystals,
        crystals_note=_crystals_note(outcome, crystals),
        cell_names=_CELL,
        charts=[{"caption": name, "figure": _json(figure)} for name, figure in charts(outcome).items()],
        plotly=Markup(get_plotlyjs()),
    )
    target = Path(page)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    if figures is not None:
        from deeprelax_ase.report.static import write_figures

        predictions = {c.place: c.prediction for c in crystals if c.prediction is not None}
        write_figures(outcome, predictions, Path(figures))
    return outcome


def _subtitle(outcome: Outcome) -> str:
    models = ", ".join(f"{name} ({count:,})" for name, count in outcome.models.most_common()) or "no model"
    return f"predicted by {models}; deeprelax_ase {__version__}"


def _facts(outcome: Outcome) -> list[dict[str, Any]]:
    import numpy as np

    def median(name: str) -> str:
        values = outcome.numbers[name]
        known = values[np.isfinite(values)]
        return f"{np.median(known):.3f} Å" if len(known) else ""

    facts: list[dict[str, Any]] = [{"name": "crystals", "value": f"{len(outcome):,}"}]
    for status, count in outcome.statuses.most_common():
        facts.append({"name": status, "value": f"{count:,}", "bad": status == FAILED})
    facts.append({"name": "unlike what the model knows", "value": f"{int(outcome.outside.sum()):,}"})
    facts.append({"name": "median expected error", "value": median("error")})
    facts.append({"name": "median uncertainty", "value": median("uncertainty")})
    if outcome.has_reference:
        facts.append({"name": "mean true error", "value": f"{np.nanmean(outcome.true_errors):.3f} Å"})
    if (share := coverage(outcome)) is not None:
        facts.append({"name": "of true errors below their 90 % bound", "value": f"{share:.0%}"})
    return [fact for fact in facts if fact["value"]]


def _crystals(outcome: Outcome, show: int, model: str | None, device: str) -> list[_Shown]:
    chosen = outcome.to_show(show)
    given = unrelaxed(outcome, [place for place, _ in chosen])
    names = {place: name for place, name, _ in outcome.failures}
    name = model or next((found for found, _ in outcome.models.most_common(1)), None)
    predictor = None
    if name is not None and any(place in given and place not in names for place, _ in chosen):
        predictor = Predictor(name, device=device)
    return [_shown(place, why, given.get(place), names.get(place), predictor) for place, why in chosen]


def _shown(
    place: int, why: str, given: tuple[str, Crystal] | None, failed: str | None, predictor: Predictor | None
) -> _Shown:
    if given is None:
        told = why if failed else "The unrelaxed crystal is not known."
        return _Shown(place, failed or f"crystal {place}", ["failed" if failed else why], note=told)
    name, crystal = given
    title = f"{name}: {crystal.to_atoms().get_chemical_formula('metal')}"
    if len(crystal) > views.LARGEST:
        return _Shown(place, title, [why], note=f"Not drawn: {len(crystal):,} atoms.")
    try:
        prediction = None if predictor is None or failed else predictor.predict(crystal)
    except DeepRelaxError as error:
        return _Shown(place, title, [why], note=str(error))
    if prediction is None:
        return _Shown(place, title, ["failed"], [_cell_row("unrelaxed", crystal)], why, _drawing(crystal))
    figure, longer = views.before_and_after(prediction)
    note = f"Arrows are {longer:.3g} times as long as the moves. " if longer > 1 else ""
    return _Shown(place, title, [why, *_tags(prediction)], _cell_rows(prediction), note, _json(figure), prediction)


def _drawing(crystal: Crystal) -> Markup | None:
    """None for crystals that are too strange to be drawn."""
    import numpy as np

    sound = np.isfinite(crystal.positions).all() and np.isfinite(crystal.cell).all()
    return _json(views.alone(crystal)) if sound else None


def _tags(prediction: Prediction) -> list[str]:
    tags = [f"uncertainty {prediction.uncertainty.total:.3f} Å"]
    if prediction.error is not None:
        tags.append(f"expected error {prediction.error.coordinates:.3f} Å")
        tags += ["unlike what the model knows"] if prediction.error.outside else []
    return [*tags, *(["settled"] if prediction.settled else [])]


def _cell_rows(prediction: Prediction) -> list[dict[str, Any]]:
    before, after = _parameters(prediction.initial), _parameters(prediction.relaxed)
    change = [f"{100 * (b / a - 1):+.1f} %" for a, b in zip(before, after, strict=True)]
    rows = [_cell_row("unrelaxed", prediction.initial), _cell_row("relaxed", prediction.relaxed)]
    return [*rows, {"name": "change", "numbers": change}]


def _cell_row(name: str, crystal: Crystal) -> dict[str, Any]:
    return {"name": name, "numbers": [f"{value:.2f}" for value in _parameters(crystal)]}


def _parameters(crystal: Crystal) -> list[float]:
    from ase.geometry import cell_to_cellpar

    return [*cell_to_cellpar(crystal.cell).tolist(), crystal.volume]


def _crystals_note(outcome: Outcome, crystals: Iterable[_Shown]) -> str:
    if not outcome.inputs:
        return "They cannot be drawn, because the unrelaxed crystals are not known: give them with --initial."
    if not list(crystals):
        return "None is asked for."
    return (
        "Failures first, then the most uncertain and the most changed. Arrows show how atoms move beyond being carried "
        "along by the cell; bonds are coloured by the uncertainty of their lengths. Both views turn together."
    )


def _json(figure: go.Figure) -> Markup:
    """For a script element, which no text in it can end."""
    return Markup(figure.to_json().replace("<", "\\u003c"))
