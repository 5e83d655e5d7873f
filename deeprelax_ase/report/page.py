"""The page: one HTML file that holds all it needs, and opens without a network."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from deeprelax_ase import __version__
from deeprelax_ase.errors import OutputError
from deeprelax_ase.evaluation.metrics import rank_correlation
from deeprelax_ase.io.placing import placed
from deeprelax_ase.prediction.status import STATUSES, UNRELAXED
from deeprelax_ase.report.charts import charts, coverage
from deeprelax_ase.report.composition import element_maps, kinds_of
from deeprelax_ase.report.crystal_pairs import Pair, pairs_of
from deeprelax_ase.report.outcome import Outcome, outcome_of
from deeprelax_ase.report.structure_card import CELL, StructureCard, json_of, shown_crystals
from deeprelax_ase.report.table import table_of

#: Lines of the table of reasons, and of the failures one by one.
_REASONS, _FAILURES = 20, 100

#: Mark of a page that was made here, within so many bytes.
_GENERATOR, _HEAD = b'<meta name="generator" content="deeprelax_ase">', 300

#: Crystals whose displacements are looked at.
_SAMPLE = 500


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
    most, are drawn as they were stored, and predicted again to tell the uncertainties of their bonds.

    Args:
        path, initial, reference: see :func:`~deeprelax_ase.report.outcome.outcome_of`.
        page: HTML file to write, whole or not at all; it may take the place of another such page, and of nothing else.
        show: how many crystals to draw.
        model: predicts them; by default the one that did.
        figures: folder for figures for papers, as PNG and SVG, see :mod:`deeprelax_ase.report.static`.
        device: for these predictions.
        advance: is told what is being done.

    Returns:
        the outcome that the page shows.

    Raises:
        StructureFileError, OutputError: see :func:`~deeprelax_ase.report.outcome.outcome_of`; also for a page that
            would take the place of another file.
        ModelError, DeviceError: see :class:`~deeprelax_ase.Predictor`; of a ``model`` that is given.
        OSError: the page cannot be written.
    """
    page = Path(page)
    _refuse_overwriting(page)
    advance("reading")
    outcome = outcome_of(path, initial=initial, reference=reference)
    chosen = dict(outcome.to_show(show))
    sample = outcome.sample(_SAMPLE)
    pairs, missing = pairs_of(outcome.results, {*chosen, *sample})
    outcome.displacements = _displacements(pairs, sample)
    advance("predicting")
    crystals = shown_crystals(outcome.results, pairs, chosen, model=model, device=device)
    advance("drawing")
    _write(_page(outcome, crystals, missing), page)
    if figures is not None:
        from deeprelax_ase.report.static import write_figures

        predictions = {c.place: c.prediction for c in crystals if c.prediction is not None}
        write_figures(outcome, predictions, Path(figures))
    return outcome


def _page(outcome: Outcome, crystals: list[StructureCard], missing: str) -> str:
    table = table_of(outcome)
    drawn = {**element_maps(outcome), **charts(outcome)}
    environment = Environment(loader=PackageLoader("deeprelax_ase.report", ""), autoescape=True)
    return environment.get_template("page.html.jinja").render(
        title=f"Relaxed crystals: {Path(outcome.name).resolve().name}",
        subtitle=_subtitle(outcome),
        facts=_facts(outcome),
        reasons=outcome.reasons.most_common(_REASONS),
        doubts=outcome.doubts.most_common(_REASONS),
        failures=outcome.failures[:_FAILURES],
        crystals=crystals,
        shown=max(crystals, key=lambda card: len(card.cell), default=None),  # the first with a crystal before and after
        crystals_note=_crystals_note(crystals, len(outcome), missing),
        cell_names=CELL,
        table=json_of(table),
        table_note=_table_note(outcome, len(table["rows"])),
        kinds=_kinds(outcome),
        charts=[{"caption": name, "figure": json_of(figure)} for name, figure in drawn.items()],
        style=_part("page.css"),
        script=_part("page.js"),
        libraries=[Markup(get_plotlyjs()), _part("vendor/3Dmol-min.js"), _part("vendor/tabulator.min.js")],
        table_style=_part("vendor/tabulator.min.css"),
    )


def _part(name: str) -> Markup:
    """A file that each page holds."""
    return Markup((files("deeprelax_ase.report") / name).read_text(encoding="utf-8"))


def _table_note(outcome: Outcome, rows: int) -> str:
    if rows == len(outcome):
        return ""
    return Markup(
        f"The table holds {rows:,} of {len(outcome):,} crystals: those that failed and the most uncertain ones. "
        "<code>deeprelax export</code> and the files of Parquet hold all."
    )


def _kinds(outcome: Outcome) -> list[tuple[str, ...]]:
    """Lines of the table of kinds: names, numbers and medians for people to read."""
    return [
        (
            kind.name,
            f"{kind.crystals:,}",
            f"{100 * kind.uncertain / kind.crystals:.0f} %",
            _told(kind.error, "{:.3f} Å"),
            _told(100 * kind.volume_error, "{:.1f} %"),
            *([_told(kind.true_error, "{:.3f} Å")] if outcome.has_reference else []),
        )
        for kind in kinds_of(outcome)
    ]


def _told(value: float, form: str) -> str:
    return form.format(value) if np.isfinite(value) else ""


def _refuse_overwriting(page: Path) -> None:
    """Refuse to overwrite results, their crystals, and any other file that is not a page made here."""
    if page.exists() and not page.is_dir():
        with page.open("rb") as stream:
            if _GENERATOR not in stream.read(_HEAD):
                raise OutputError(f"{page} exists already, and is no page of a report. Give another name with -o.")


def _write(text: str, page: Path) -> None:
    """Write the whole ``text``, or nothing."""
    with placed(Path(os.path.realpath(page))) as part:
        part.write_text(text, encoding="utf-8")


def _displacements(pairs: Mapping[int, Pair], sample: Collection[int]) -> np.ndarray:
    """(S,) Å, root mean square displacements of those in the ``sample`` that are known before and after."""
    moves = [pairs[place].displacements for place in sample]
    return np.array([np.sqrt((move**2).sum(axis=1).mean()) for move in moves if len(move)])


def _subtitle(outcome: Outcome) -> str:
    models = ", ".join(f"{name} ({count:,})" for name, count in outcome.models.most_common()) or "a model not told of"
    versions = ", ".join(sorted(outcome.versions))
    made = f" of deeprelax_ase {versions}" if versions else ""
    done = ""
    if (places := outcome.results.places) is not None and len(places) > len(outcome):
        done = f" Not done yet: {len(outcome):,} of {len(places):,} crystals."
    return f"Predicted by {models}{made}; page by deeprelax_ase {__version__}.{done}"


def _facts(outcome: Outcome) -> list[dict[str, Any]]:
    facts: list[dict[str, Any]] = [{"name": "crystals", "value": f"{len(outcome):,}"}]
    for status in sorted(outcome.statuses, key=(*STATUSES, *outcome.statuses).index):
        count = f"{outcome.statuses[status]:,}"
        facts.append({"name": status, "value": count, "bad": status in UNRELAXED, "status": status})
    facts.append({"name": "unlike what the model knows", "value": f"{int(outcome.ood.sum()):,}"})
    facts.append({"name": "median expected error", "value": _median(outcome.numbers["error"])})
    facts.append(
        {
            "name": "median expected error of the volume",
            "value": _median(100 * outcome.numbers["volume_error"], "{:.1f} %"),
        }
    )
    facts.append({"name": "median uncertainty", "value": _median(outcome.numbers["uncertainty"])})
    if outcome.has_reference:
        facts += _facts_of_errors(outcome)
    return [fact for fact in facts if fact["value"]]


def _facts_of_errors(outcome: Outcome) -> list[dict[str, Any]]:
    true, expected = outcome.true_errors, outcome.numbers[outcome.doubt]
    known = np.isfinite(true)
    facts = [{"name": "mean true error", "value": f"{true[known].mean():.3f} Å"}]
    if np.isfinite(outcome.true_volume_errors).any():
        mean = f"{100 * np.nanmean(outcome.true_volume_errors):.1f} %"
        facts.append({"name": "mean true error of the volume", "value": mean})
    if known.sum() < len(outcome) - sum(outcome.statuses[status] for status in UNRELAXED):
        facts.insert(0, {"name": "with a reference", "value": f"{known.sum():,}"})
    if (share := coverage(outcome)) is not None:
        facts.append({"name": "of true errors below their 90 % bound", "value": f"{100 * share:.0f} %"})
    known &= np.isfinite(expected)
    if np.isfinite(rank := rank_correlation(expected[known], true[known])):
        facts.append({"name": "rank correlation of true and expected", "value": f"{rank:.2f}"})
    return facts


def _median(values: np.ndarray, told: str = "{:.3f} Å") -> str:
    known = values[np.isfinite(values)]
    return told.format(np.median(known)) if len(known) else ""


def _crystals_note(crystals: list[StructureCard], total: int, missing: str) -> str:
    if missing:
        return f"Crystals before and after cannot be drawn. {missing}"
    if not crystals:
        return "None is asked for."
    some = f", out of {total:,}: failures first, then the most uncertain and the most changed"
    return Markup(
        f"{len(crystals):,} crystals{some if len(crystals) < total else ''}. "
        "<code>deeprelax report --show N</code> draws N. Arrows show how atoms move beyond being carried along by the "
        "cell; bonds are coloured by the uncertainty of their lengths. Pale atoms are copies in the cells around. Both "
        "views have one scale and turn together."
    )
