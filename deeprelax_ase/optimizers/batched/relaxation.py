"""Relaxation of many crystals at once under a potential in batches: crystals enter as others leave."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deeprelax_ase.calculators.batched import BatchedPotential
from deeprelax_ase.calculators.scope import one_thread
from deeprelax_ase.errors import CalculatorError
from deeprelax_ase.optimizers.acceptance import BURSTS, COLLAPSES, MOST_STRETCHED
from deeprelax_ase.optimizers.batched import bfgs, fire
from deeprelax_ase.optimizers.batched.start import BatchedStart, KnownResults
from deeprelax_ase.optimizers.batched.state import BatchedState
from deeprelax_ase.optimizers.limits import check_fmax

#: Optimizers in batches, by the names that ``finish`` has for them one by one.
IN_BATCHES: dict[str, Any] = {"fire": fire, "fast": bfgs, "modelhessianbfgs": bfgs}


@dataclass(frozen=True, eq=False)
class BatchedEnd:
    """The end of the relaxation of one crystal.

    Attributes:
        positions: (N, 3) Å.
        cell: (3, 3) Å.
        results: energy, forces and stress there; None where it failed.
        steps: taken.
        calls: of the potential; one less where the results of the start were known.
        converged: whether forces, and the gradient of the cell where it moves, are below the limit.
        error: why it failed; None where it did not. Positions and cell are then where the potential failed.
    """

    positions: np.ndarray
    cell: np.ndarray
    results: KnownResults | None
    steps: int
    calls: int
    converged: bool
    error: str | None = None


def relax_in_batches(
    starts: Sequence[BatchedStart],
    potential: BatchedPotential,
    *,
    optimizer: str = "fire",
    fmax: float = 0.05,
    steps: int = 500,
    observe: Callable[[int], object] | None = None,
) -> Iterator[tuple[int, BatchedEnd]]:
    """Relax crystals side by side, each until it converges by itself.

    The largest go first. As many are at work as the potential takes at once, and others enter as they leave. Each takes
    the steps that it would take alone. Forces count as converged as they do in
    :class:`~deeprelax_ase.DeepRelaxOptimizer`.

    Args:
        starts: any number.
        potential: one of :func:`~deeprelax_ase.calculators.get_batched`.
        optimizer: ``"fire"``, that of ASE; or ``"fast"``, for starts near the minimum.
        fmax: eV/Å, largest force, and gradient of the cell where it moves, that counts as converged.
        steps: most steps of each.
        observe: is told after each round how many crystals are left, those that wait to enter included.

    Yields:
        places in ``starts`` and ends, as crystals are done; while the potential computes the next geometries of others.

    Raises:
        ValueError: another optimizer, or no relaxation would end at ``fmax``.
        CalculatorError: a cell is to move, and the potential has no stress.
    """
    check_fmax(fmax)
    if optimizer.lower() not in IN_BATCHES:
        raise ValueError(f"{optimizer=} does not relax in batches: take one of {', '.join(IN_BATCHES)}")
    if not potential.has_stress and any(start.strain is not None for start in starts):
        raise CalculatorError(f"{potential.name} gives no stress, so no cell can be relaxed under it: keep the cells")
    method = IN_BATCHES[optimizer.lower()]
    symmetric = any(start.symmetry is not None for start in starts)
    waiting = deque(sorted(range(len(starts)), key=lambda place: -len(starts[place])))
    state: BatchedState | None = None
    places = _entering(starts, waiting, 0, potential.atoms_at_once)
    gone: list[int] = []  # places of crystals that are done and still there
    ends: list[tuple[int, BatchedEnd]] = []
    while state is not None or places:
        wait: Callable[[], dict[int, str]] = dict
        if state is not None:
            with one_thread():
                method.step(state)
            wait = state.launch(potential)
        yield from ends  # a GPU is busy while somebody looks at them
        errors = wait()
        if places:
            entered = BatchedState.of(
                [starts[place] for place in places], places, potential.device, symmetric=symmetric
            )
            wrong = {} if "forces" in entered.atoms else entered.evaluate(potential)
            if wrong:  # before an optimizer looks at geometries that no potential takes
                lost = torch.zeros(len(entered), dtype=torch.bool, device=potential.device)
                lost[list(wrong)] = True
                yield from _ends(entered, lost, ~lost, wrong, starts)
                entered = entered.keep(~lost)
            if len(entered):
                with one_thread():
                    method.begin(entered)
                    state = entered if state is None else state.join(entered)
        ends = []
        if state is not None:
            if observe is not None:
                observe(len(state) - len(gone) + len(waiting))
            with one_thread():
                converged = state.largest(*state.pulls()) < fmax
                lost = torch.linalg.matrix_norm(state.deformation()) > MOST_STRETCHED
                over = converged | lost | (state.crystals["steps"] + state.crystals["steps_before"] >= steps)
                if errors:
                    over[list(errors)] = True
                over &= ~state.crystals["gone"]
                if bool(over.any()):
                    errors = _lost_cells(state, lost & over) | errors
                    ends = list(_ends(state, over, converged, errors, starts))
                    gone += [place for place, _ in ends]
                    state.crystals["gone"] = state.crystals["gone"] | over
        at_work = 0 if state is None else len(state.batch) - sum(len(starts[place]) for place in gone)
        places = _entering(starts, waiting, at_work, potential.atoms_at_once) if waiting else []
        if (
            state is not None
            and gone
            and (places or errors or len(gone) > potential.may_stay(len(state.batch)) * len(state))
        ):
            state, gone = state.keep(~state.crystals["gone"]) if at_work else None, []
    yield from ends


def _entering(starts: Sequence[BatchedStart], waiting: deque[int], at_work: int, most: int) -> list[int]:
    """Take as many of those ``waiting`` as there is room for beside so many atoms ``at_work``, once it is worth it."""
    room = most - at_work
    if at_work and waiting and room < max(len(starts[waiting[0]]), most // 8):
        return []
    chosen: list[int] = []
    while waiting and (len(starts[waiting[0]]) <= room or not (chosen or at_work)):
        chosen.append(waiting.popleft())
        room -= len(starts[chosen[-1]])
    return chosen


def _lost_cells(state: BatchedState, lost: torch.Tensor) -> dict[int, str]:
    """Say of the crystals that are ``lost`` what has become of their cells."""
    numbers = lost.nonzero().squeeze(1)
    burst = torch.linalg.det(state.deformation()[numbers]) > 1
    return {k: BURSTS if larger else COLLAPSES for k, larger in zip(numbers.tolist(), burst.tolist(), strict=True)}


def _ends(
    state: BatchedState,
    over: torch.Tensor,
    converged: torch.Tensor,
    errors: dict[int, str],
    starts: Sequence[BatchedStart],
) -> Iterator[tuple[int, BatchedEnd]]:
    """The ends of the crystals that are ``over``, fetched from the device in few pieces."""
    crystals, numbers = state.crystals, over.nonzero().squeeze(1)
    atoms = over[state.batch].nonzero().squeeze(1)
    positions, cells = state.geometry()
    vectors = torch.stack([positions[atoms], state.atoms["forces"][atoms]]).cpu().numpy()
    single = torch.stack([crystals[name].double() for name in ("place", "size", "steps", "energies")], dim=1)
    fetched = torch.cat([numbers[:, None], converged[numbers, None], single[numbers]], dim=1).tolist()
    matrices = torch.stack([cells[numbers], crystals["stresses"][numbers]], dim=1).cpu().numpy()
    cuts = np.cumsum([int(row[3]) for row in fetched])[:-1]
    found = zip(fetched, matrices, *(np.split(each, cuts) for each in vectors), strict=True)
    for (number, reached, place, _, steps, energy), (cell, stress), here, forces in found:
        start, error = starts[int(place)], errors.get(int(number))
        results = None if error is not None else KnownResults(energy, forces, stress)
        calls = int(steps) + (start.known is None)
        yield int(place), BatchedEnd(here, cell, results, int(steps), calls, bool(reached) and error is None, error)
