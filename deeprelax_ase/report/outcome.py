"""Results for many crystals, in arrays, and the choice of those to look at."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.io.source import path_of
from deeprelax_ase.prediction.judgement import kind_of_reason
from deeprelax_ase.prediction.status import UNCERTAIN, UNRELAXED
from deeprelax_ase.report.reference import Reference
from deeprelax_ase.report.results import NUMBERS, RelaxedFile, Results, Rows, ScreenedFolder

#: Failures that are kept one by one; of the others the reason counts.
_KEPT = 1000


class Failure(NamedTuple):
    """A crystal that is refused or failed: its place among the inputs, its id, the status, and why."""

    place: int
    name: str
    status: str
    reason: str


@dataclass
class Outcome:
    """Results for G crystals.

    Attributes:
        name: of their file or folder.
        results: the source of all this, and of the crystals.
        index: (G,) int64, their places among the inputs, counted from 0; a screening that is not done has gaps.
        numbers: of each of :data:`~deeprelax_ase.report.results.NUMBERS`, (G,) float64, NaN where it is not known.
        true_errors: (G,) Å, mean absolute Cartesian component from the reference, NaN without one.
        true_volume_errors: (G,) relative errors of their volumes, likewise.
        ood: (G,) bool, unlike what the model knows.
        uncertain: (G,) bool, of that status.
        elements: (G, 15) uint8, bits that tell by atomic number which elements each holds, see :meth:`present`.
        statuses: how many have each status.
        reasons: how many are refused or failed for each kind of reason.
        doubts: how many are uncertain for each reason, likewise.
        failures: the first ones of them.
        models: names of the models, and how many crystals each predicted.
        versions: the same of the versions of this package.
        displacements: (S,) Å, root mean square displacements of a sample of the crystals, the cell's motion apart.
    """

    name: str
    results: Results
    index: np.ndarray
    numbers: dict[str, np.ndarray]
    true_errors: np.ndarray
    true_volume_errors: np.ndarray
    ood: np.ndarray
    uncertain: np.ndarray
    elements: np.ndarray
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    doubts: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    models: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    displacements: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def has_reference(self) -> bool:
        """Whether any true error is known."""
        return bool(np.isfinite(self.true_errors).any())

    @property
    def doubt(self) -> str:
        """Name of the number that best tells how far off predictions are: errors, or uncertainties without errors."""
        return "error" if np.isfinite(self.numbers["error"]).any() else "uncertainty"

    def present(self, number: int) -> np.ndarray:
        """(G,) bool, whether each crystal holds the element of this atomic ``number``."""
        return (self.elements[:, number // 8] >> (7 - number % 8) & 1).astype(bool)

    def to_show(self, number: int) -> list[tuple[int, str]]:
        """Places of the ``number`` crystals to look at, and why.

        Up to a third of them are failures, each for another reason as far as possible; then come the most uncertain,
        then those whose volume changes most.
        """
        chosen = {failure.place: failure.status for failure in self._various_failures()[: (number + 2) // 3]}
        changes = np.abs(self.numbers["volume_change"])
        doubtful = "largest expected error" if self.doubt == "error" else "most uncertain"
        named = ((self.numbers[self.doubt], doubtful), (changes, "largest change of volume"))
        for turn, (values, why) in enumerate(named, start=1):
            goal = number if turn == len(named) else len(chosen) + (number - len(chosen) + 1) // 2
            known = np.flatnonzero(np.isfinite(values))
            for row in known[np.argsort(-values[known], kind="stable")[: 2 * number]].tolist():
                if len(chosen) >= goal:
                    break
                chosen.setdefault(int(self.index[row]), why)
        return list(chosen.items())

    def sample(self, number: int) -> list[int]:
        """Places of at most ``number`` crystals, evenly spread."""
        return self.index[:: -(-len(self) // number)].tolist()

    def _various_failures(self) -> list[Failure]:
        firsts: dict[str, Failure] = {}
        for failure in self.failures:
            firsts.setdefault(kind_of_reason(failure.reason), failure)
        return list(dict.fromkeys([*firsts.values(), *self.failures]))


def results_of(path: Path, initial: str | os.PathLike | None) -> Results:
    """The results in ``path``.

    Raises:
        StructureFileError: there is nothing.
        OutputError: the folder is no screening, or is damaged.
    """
    given = None if initial is None else os.fspath(initial)
    return (ScreenedFolder if path_of(path).is_dir() else RelaxedFile)(str(path), given)


def outcome_of(
    path: str | os.PathLike, *, initial: str | os.PathLike | None = None, reference: str | os.PathLike | None = None
) -> Outcome:
    """Read the results for the crystals in ``path``.

    Args:
        path: folder of a screening, done or not, or file that ``deeprelax relax`` wrote; ``path@0:10`` is a part.
        initial: file of the unrelaxed crystals, in the same order; a screening knows its own.
        reference: file of truly relaxed crystals, with their atoms in the same order. They are found by their names
            where they carry ids of the results, some of which may be missing; or else by their order, one for each
            unrelaxed crystal.

    Raises:
        StructureFileError: there is nothing, or a file holds other crystals.
        OutputError: the folder is no screening, or is damaged.
    """
    results = results_of(Path(path), initial)
    none = np.zeros(0)
    outcome = Outcome(results.name, results, none.astype(np.int64), {}, none, none, none, none, none)
    batches: list[Rows] = []
    uncertain: list[np.ndarray] = []
    elements: list[np.ndarray] = []
    for rows in results.rows():
        _count(outcome, rows)
        batches.append(rows.only_numbers())
        uncertain.append(np.array([status == UNCERTAIN for status in rows.statuses], dtype=bool))
        elements.append(_bits(rows.elements))
    if not batches:
        raise StructureFileError(f"{path} holds no crystals yet: nothing of it is done")
    outcome.index = np.concatenate([rows.index for rows in batches])
    outcome.numbers = {name: np.concatenate([rows.numbers[name] for rows in batches]) for name in NUMBERS}
    outcome.ood = np.concatenate([rows.ood for rows in batches])
    outcome.uncertain, outcome.elements = np.concatenate(uncertain), np.concatenate(elements)
    outcome.true_errors = outcome.true_volume_errors = np.full(len(outcome), np.nan)
    if reference is not None:
        truth = Reference.of(os.fspath(reference), results, places=results.places or range(len(outcome)))
        errors = np.concatenate([truth.errors(rows) for rows in results.rows(geometry=True)])
        outcome.true_errors, outcome.true_volume_errors = errors.T
    return outcome


def _count(outcome: Outcome, rows: Rows) -> None:
    outcome.statuses.update(rows.statuses)
    outcome.versions.update(filter(None, rows.versions))
    made = (model for model, status in zip(rows.models, rows.statuses, strict=True) if status not in UNRELAXED)
    outcome.models.update(filter(None, made))
    for n, status in enumerate(rows.statuses):
        if status == UNCERTAIN:
            outcome.doubts[kind_of_reason(rows.reasons[n] or "no reason is given")] += 1
        if status in UNRELAXED:
            reason = rows.reasons[n] or "no reason is given"
            outcome.reasons[kind_of_reason(reason)] += 1
            if len(outcome.failures) < _KEPT:
                outcome.failures.append(Failure(int(rows.index[n]), rows.ids[n], status, reason))


def _bits(elements: Sequence[np.ndarray | None]) -> np.ndarray:
    """(n, 15) uint8, see :class:`Outcome`."""
    present = np.zeros((len(elements), 120), dtype=bool)
    for row, numbers in zip(present, elements, strict=True):
        if numbers is not None:
            row[numbers[(numbers > 0) & (numbers < 120)]] = True
    return np.packbits(present, axis=1)
