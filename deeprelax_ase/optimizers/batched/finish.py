"""Many crystals relaxed together under a potential in batches: jumps judged, then finished, as each would be alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from deeprelax_ase.calculators.batched_ase import PotentialCalculator
from deeprelax_ase.calculators.identity import potential_name
from deeprelax_ase.errors import CalculatorError
from deeprelax_ase.optimizers.batched.case import Case, Finished, prepared
from deeprelax_ase.optimizers.batched.jump import BatchedJumps
from deeprelax_ase.optimizers.batched.relaxation import IN_BATCHES, relax_in_batches
from deeprelax_ase.optimizers.finish import resolve_finish

if TYPE_CHECKING:
    from ase import Atoms

    from deeprelax_ase.calculators.batched import BatchedPotential
    from deeprelax_ase.prediction.predictor import Predictor
    from deeprelax_ase.prediction.record import Prediction


def finish_in_batches(
    given: Sequence[tuple[Atoms, Prediction | None]],
    predictor: Predictor,
    potential: BatchedPotential,
    *,
    fmax: float = 0.05,
    steps: int = 500,
    finish: str | None = "fire",
    relax_cell: Any = None,
    keep_symmetry: bool = False,
    calculator_name: str | None = None,
    observe: Callable[[int], object] | None = None,
) -> list[Finished]:
    """Relax crystals as :func:`~deeprelax_ase.optimizers.finish_atoms` does with each, but all together.

    Energies and forces of all starts are computed, then those of all jumps, which are judged one by one, and those of
    force-informed steps where :class:`~deeprelax_ase.DeepRelaxOptimizer` would make them; then all go on side by side.
    Crystals with other constraints than ``FixAtoms``, ``FixCartesian``, ``FixedLine`` and ``FixedPlane``, or
    ``FixSymmetry`` alone, are relaxed one by one (:func:`~deeprelax_ase.io.constraints.are_kept_in_batches`), as all
    are by another finish than ``"fire"`` and ``"fast"``.

    Args:
        given: unrelaxed crystals, which are not changed, and their predictions by ``predictor``, where it made them.
        predictor: makes the others, and those in cells that constraints allow.
        potential: one of :func:`~deeprelax_ase.calculators.get_batched`.
        fmax, steps, finish, relax_cell, keep_symmetry, calculator_name: see
            :func:`~deeprelax_ase.optimizers.finish_atoms`.
        observe: is told after each round of the finish how many crystals are left.

    Returns:
        of each crystal, in order, its result and the relaxed atoms, or the error that it alone would raise.
    """
    options: dict[str, Any] = {"fmax": fmax, "steps": steps, "finish": finish, "relax_cell": relax_cell}
    options["keep_symmetry"] = keep_symmetry
    options["calculator_name"] = calculator_name or potential.name
    cases = prepared(given, predictor, potential, relax_cell, keep_symmetry=keep_symmetry)
    together = finish is None or finish.lower() in IN_BATCHES
    alone = [case for case in cases if case.goes_on and not (together and case.goes_in_batches())]
    for case in alone:
        case.finish_alone(predictor, potential, options)
    options["potential"] = potential_name(PotentialCalculator(potential))
    name = None if finish is None else resolve_finish(finish).__name__
    jumps = BatchedJumps(predictor, potential, fmax=fmax, steps=steps, finish=name)
    started = [case for case in cases if case.goes_on]
    jumps.evaluate_starts(started)
    if steps > 0:
        jumps.predict(case for case in started if not case.converged)
        jumps.jump(case for case in started if case.goes_on and not case.converged)
        jumps.jump_informed(case for case in started if case.goes_on and not case.converged)
    for case in started:
        if case.start_error and case.error is None:
            case.error = CalculatorError(case.start_error)
    if finish is not None and steps > 0:
        _finish([case for case in started if case.goes_on and not case.converged], potential, options, observe)
    return [case.told(predictor.model_name, options) for case in cases]


def pays_in_batches(potential: BatchedPotential, finish: str | None) -> bool:
    """Whether many crystals relaxed together under ``potential`` take less time than one by one, by this ``finish``."""
    return not potential.one_by_one and (finish is None or finish.lower() in (*IN_BATCHES, "none"))


def _finish(
    cases: list[Case],
    potential: BatchedPotential,
    options: dict[str, Any],
    observe: Callable[[int], object] | None,
) -> None:
    """Relax all ``cases`` side by side from where they are."""
    if not cases:
        return
    ends = relax_in_batches(
        [case.begin() for case in cases],
        potential,
        optimizer=options["finish"],
        fmax=options["fmax"],
        steps=options["steps"],
        observe=observe,
    )
    for place, end in ends:
        case = cases[place]
        case.calls, case.steps, case.converged = case.calls + end.calls, case.steps + end.steps, end.converged
        case.place(end.positions, end.cell)
        if end.results is None:
            case.error = CalculatorError(f"{end.error}, after step {case.steps}")
        else:
            case.known = end.results
