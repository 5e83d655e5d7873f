"""What became of many crystals, in arrays: read from a screening's folder, or from a file of relaxed structures."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deeprelax_ase.errors import DeepRelaxError, StructureFileError
from deeprelax_ase.io import Frame, read_frames
from deeprelax_ase.metrics import coordinate_mae
from deeprelax_ase.prediction import FAILED
from deeprelax_ase.structure import Crystal

if TYPE_CHECKING:
    from ase import Atoms

#: Numbers that are kept of each crystal: expected error, its bound and the uncertainty in Å, relative change of volume.
NUMBERS = ("error", "error_bound", "uncertainty", "volume_change")

#: Failures that are kept one by one; of the others the reason counts.
_KEPT = 1000


@dataclass
class Outcome:
    """What became of G crystals.

    Attributes:
        name: where they are.
        index: (G,) int64, their places among the inputs, counted from 0; a screening that is not done has gaps.
        numbers: of each of :data:`NUMBERS`, (G,) float64, NaN where it is not known.
        true_errors: (G,) Å, mean absolute Cartesian component from the reference, NaN without one.
        outside: (G,) bool, unlike what the model knows.
        statuses: how many have each status.
        reasons: how many failed for each reason, numbers in it left out.
        failures: place, id and reason of the first ones that failed.
        models: names of the models, and how many crystals each predicted.
        inputs: files that the unrelaxed crystals are in; empty where they are not known.
    """

    name: str
    index: np.ndarray
    numbers: dict[str, np.ndarray]
    true_errors: np.ndarray
    outside: np.ndarray
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str, str]] = field(default_factory=list)
    models: Counter[str] = field(default_factory=Counter)
    inputs: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.true_errors)

    @property
    def has_reference(self) -> bool:
        """Whether any true error is known."""
        return bool(np.isfinite(self.true_errors).any())

    def to_show(self, number: int) -> list[tuple[int, str]]:
        """Places of the ``number`` crystals to look at, and why: failures, the most uncertain, the most changed."""
        chosen = {place: reason for place, _, reason in self.failures[: (number + 2) // 3]}
        doubt = self.numbers["error"] if np.isfinite(self.numbers["error"]).any() else self.numbers["uncertainty"]
        named = ((doubt, "most uncertain"), (np.abs(self.numbers["volume_change"]), "largest change of volume"))
        for turn, (values, why) in enumerate(named, start=1):
            order = np.argsort(-np.nan_to_num(values, nan=-1.0), kind="stable")
            goal = number if turn == len(named) else len(chosen) + (number - len(chosen) + 1) // 2
            for row in order.tolist():
                if len(chosen) >= goal or not np.isfinite(values[row]):
                    break
                chosen.setdefault(int(self.index[row]), why)
        return list(chosen.items())


def outcome_of(
    path: str | os.PathLike, *, initial: str | os.PathLike | None = None, reference: str | os.PathLike | None = None
) -> Outcome:
    """What became of the crystals in ``path``.

    Args:
        path: folder of a screening, or file that ``deeprelax relax`` wrote.
        initial: file of the unrelaxed crystals, in the same order; a screening knows its own.
        reference: file of the truly relaxed crystals, one for each unrelaxed one, in the same order and with their
            atoms in the same order.

    Raises:
        StructureFileError: there is nothing, or a file holds other crystals.
        OutputError: the folder is no screening, or is damaged.
    """
    place = Path(path)
    if not place.exists():
        raise StructureFileError(f"{place}: no such file or folder. Give what deeprelax screen or relax wrote.")
    if place.is_dir():
        from deeprelax_ase.screening.folder import Folder

        rows: Iterable[Mapping[str, Any]] = _rows_of_folder(Folder(place), geometry=reference is not None)
        request = Folder(place).request()
        inputs, total = tuple(item["name"] for item in request.inputs), request.structures
    else:
        rows, inputs, total = _rows_of_file(str(place), initial), (), None
    given = (os.fspath(initial),) if initial is not None else inputs
    true = None if reference is None else _Reference(read_frames(os.fspath(reference)))
    found = _collected(str(place), rows, true, given)
    if not len(found):
        raise StructureFileError(f"{place} holds no crystals")
    if true is not None:
        true.check(len(found) if total is None else total)
    return found


class _Reference:
    """Truly relaxed crystals, read once from the first to the last."""

    def __init__(self, frames: Iterator[Frame]) -> None:
        self._frames, self._read = frames, 0

    def at(self, place: int) -> Frame:
        """The one at ``place``; places rise from call to call."""
        for frame in self._frames:
            self._read += 1
            if self._read > place:
                return frame
        raise StructureFileError(f"the reference holds {self._read} crystals: it must hold one for each unrelaxed one")

    def check(self, total: int) -> None:
        """Refuse another number than ``total``."""
        self._read += sum(1 for _ in self._frames)
        if self._read != total:
            raise StructureFileError(f"the reference holds {self._read} crystals instead of {total}, one for each")


def _collected(
    name: str, rows: Iterable[Mapping[str, Any]], reference: _Reference | None, inputs: tuple[str, ...]
) -> Outcome:
    columns: dict[str, list[float]] = {key: [] for key in NUMBERS}
    errors: list[float] = []
    outside: list[bool] = []
    index: list[int] = []
    found = Outcome(name, np.zeros(0), {}, np.zeros(0), np.zeros(0, dtype=bool), inputs=inputs)
    for number, row in enumerate(rows):
        place = row.get("index", number)
        index.append(place)
        for key, values in columns.items():
            value = row.get(key)
            values.append(np.nan if value is None else float(value))
        outside.append(bool(row.get("outside")))
        errors.append(np.nan if reference is None else _true_error(row, reference.at(place)))
        found.statuses[row["status"]] += 1
        if row["status"] != FAILED:
            found.models.update([row["model"]] if row.get("model") else [])
        else:
            reason = row.get("reason") or "no reason is given"
            found.reasons[_general(reason)] += 1
            if len(found.failures) < _KEPT:
                found.failures.append((place, str(row.get("id") or place), reason))
    found.index = np.array(index, dtype=np.int64)
    found.numbers = {key: np.array(values) for key, values in columns.items()}
    found.true_errors, found.outside = np.array(errors), np.array(outside, dtype=bool)
    return found


def _general(reason: str) -> str:
    """``reason`` with its numbers left out, so that alike ones count together."""
    words = ("…" if any(c.isdigit() for c in word) else word for word in reason.split())
    return " ".join(words)


def _true_error(row: Mapping[str, Any], frame: Frame) -> float:
    """Å, mean absolute Cartesian component; NaN for a crystal that failed."""
    if row["status"] == FAILED or frame.atoms is None:
        return np.nan
    true = frame.atoms
    if not np.array_equal(true.numbers, row["numbers"]):
        raise StructureFileError(
            f"{frame.label} is not the reference of {row.get('id')}: it holds other atoms, or in another order"
        )
    cell = np.reshape(row["cell"], (3, 3))
    scaled = np.linalg.solve(cell.T, np.reshape(row["positions"], (-1, 3)).T).T
    error = coordinate_mae(
        torch.from_numpy(scaled),
        torch.from_numpy(true.get_scaled_positions(wrap=False)),
        torch.from_numpy(true.cell.array.copy())[None],
        torch.zeros(len(true), dtype=torch.long),
    )
    return float(error[0])


def _rows_of_folder(folder: Any, *, geometry: bool) -> Iterator[Mapping[str, Any]]:
    columns = ["index", "id", "status", "reason", "model", "outside", *NUMBERS]
    columns += ["numbers", "positions", "cell"] if geometry else []
    for table in folder.tables(columns):
        yield from table.to_pylist()


def _rows_of_file(path: str, initial: str | os.PathLike | None) -> Iterator[Mapping[str, Any]]:
    """As the columns of a screening have it."""
    starts = read_frames(os.fspath(initial)) if initial is not None else None
    for number, frame in enumerate(read_frames(path)):
        start = next(starts, None) if starts is not None else None
        if frame.atoms is None:
            yield {"id": frame.label, "status": FAILED, "reason": str(frame.error)}
            continue
        yield _row_of(frame.atoms, None if start is None else start.atoms, f"{Path(path).name}@{number}")


def _row_of(atoms: Atoms, start: Atoms | None, name: str) -> dict[str, Any]:
    info = atoms.info
    status, _, reason = str(info.get("deeprelax_status", "predicted")).partition(": ")
    row = {
        "id": info.get("material_id") or info.get("id") or name,
        "status": status,
        "reason": reason or None,
        "model": info.get("deeprelax_model"),
        "outside": info.get("deeprelax_outside"),
        "error": info.get("deeprelax_error"),
        "uncertainty": info.get("deeprelax_uncertainty"),
        "numbers": atoms.numbers,
        "positions": atoms.positions,
        "cell": atoms.cell.array,
    }
    if start is not None and status != FAILED and np.array_equal(start.numbers, atoms.numbers):
        row["volume_change"] = atoms.get_volume() / start.get_volume() - 1
    return row


def unrelaxed(outcome: Outcome, places: Iterable[int]) -> dict[int, tuple[str, Crystal]]:
    """Name and unrelaxed crystal at ``places``; those that cannot be read, or whose file is gone, are left out."""
    wanted = set(places)
    found: dict[int, tuple[str, Crystal]] = {}
    for place, (name, structure) in enumerate(_structures(outcome.inputs, wanted)):
        if structure is not None:
            found[place] = name, structure
        if place >= max(wanted, default=-1):
            break
    return found


def _structures(inputs: Iterable[str], wanted: Collection[int]) -> Iterator[tuple[str, Crystal | None]]:
    """Of each structure its name, and the crystal where it is ``wanted`` and there is one."""
    if not all(Path(name.split("@")[0]).exists() for name in inputs):
        return
    try:
        from deeprelax_ase.screening.columns import crystals_of
        from deeprelax_ase.screening.inputs import pieces_of, source_of
        from deeprelax_ase.screening.reading import table_of
    except ImportError:  # without pyarrow
        for frame in chain.from_iterable(map(read_frames, inputs)):
            yield frame.label, None if frame.atoms is None else _crystal(frame.atoms)
        return
    for place, piece in enumerate(pieces_of([source_of(name) for name in inputs])):
        if place in wanted:
            table = table_of([piece], first_index=0)
            yield table.column("id")[0].as_py(), crystals_of(table)[0]
        else:
            yield piece.source, None


def _crystal(atoms: Atoms) -> Crystal | None:
    try:
        return Crystal.of(atoms)
    except DeepRelaxError:
        return None
