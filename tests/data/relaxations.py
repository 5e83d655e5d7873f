"""Frames of a relaxation, as trajectories hold them."""

from __future__ import annotations


def frames(pair, name: str | None = None) -> list:
    first, last = pair
    middle = first.copy()
    middle.rattle(0.1, seed=2)
    result = [first.copy(), middle, last.copy()]
    for atoms in result:
        if name:
            atoms.info["relaxation_id"] = name
    return result
