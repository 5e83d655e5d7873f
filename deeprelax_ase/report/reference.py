"""Truly relaxed crystals, and how far from them the results are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.evaluation.metrics import coordinate_mae
from deeprelax_ase.io.frame import ID_KEYS, Frame, name_in
from deeprelax_ase.io.source import read_frames
from deeprelax_ase.prediction.status import UNRELAXED
from deeprelax_ase.report.results import Results, Rows


class Reference:
    """Truly relaxed crystals, found by the ids of the results or, if they carry none, by their places.

    Args:
        frames: by id, or by place; held in memory.
    """

    def __init__(self, frames: Mapping[Any, tuple[str, Crystal]]) -> None:
        self._frames = frames
        self._by_place = isinstance(next(iter(frames)), int)

    @classmethod
    def of(cls, name: str, results: Results, *, places: Sequence[int]) -> Reference:
        """The crystals in the file ``name``.

        Args:
            name: of the file.
            results: that are to be compared with them.
            places: of those that were to be relaxed, each of which needs one if they are not found by their ids.

        Raises:
            StructureFileError: the file cannot be read, or it is not clear which crystal belongs to which result.
        """
        named = [_named(frame) for frame in read_frames(name)]
        names = {key for key, _, _ in named if key is not None}
        by_name = len(names) == len(named) and any(not names.isdisjoint(rows.ids) for rows in results.rows())
        if not by_name and len(named) != len(places):
            raise StructureFileError(
                f"{name} holds {len(named):,} crystals instead of {len(places):,}, one for each that was to be relaxed."
                f" To give some only, name them by the ids of the results ({' or '.join(ID_KEYS[:2])} in their info)."
            )
        keys = [key for key, _, _ in named] if by_name else places
        return cls({key: (label, true) for key, (_, label, true) in zip(keys, named, strict=True)})

    def errors(self, rows: Rows) -> np.ndarray:
        """(n, 2) mean absolute Cartesian component of each in Å, and relative error of its volume.

        Both are NaN for one that failed, or has no reference.

        Raises:
            StructureFileError: the reference holds other atoms, or in another order.
        """
        errors = np.full((len(rows.index), 2), np.nan)
        for n, (crystal, status) in enumerate(zip(rows.crystals, rows.statuses, strict=True)):
            found = self._frames.get(int(rows.index[n]) if self._by_place else rows.ids[n])
            if crystal is None or found is None or status in UNRELAXED:
                continue
            label, true = found
            if not np.array_equal(true.numbers, crystal.numbers):
                raise StructureFileError(
                    f"{label} is not the reference of {rows.ids[n]}: it holds other atoms, or in another order"
                )
            errors[n] = _error(crystal, true), abs(crystal.volume / true.volume - 1)
        return errors


def _named(frame: Frame) -> tuple[str | None, str, Crystal]:
    if frame.atoms is None:
        raise frame.error or StructureFileError(f"{frame.label} cannot be read")
    return (
        name_in(frame.atoms.info) or None,
        frame.label,
        Crystal(frame.atoms.numbers, frame.atoms.positions, frame.atoms.cell.array),
    )


def _error(crystal: Crystal, true: Crystal) -> float:
    fractional, fractional_true = (torch.from_numpy(c.fractional_positions) for c in (crystal, true))
    cell = torch.from_numpy(true.cell.copy())[None]
    return float(coordinate_mae(fractional, fractional_true, cell, torch.zeros(len(true), dtype=torch.long))[0])
