"""Relax one crystal without changing it: its prediction, finished under a calculator."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.optimizers.acceptance import largest_force
from deeprelax_ase.optimizers.limits import check_fmax
from deeprelax_ase.prediction.allowed_strain import RelaxCell
from deeprelax_ase.prediction.result import RelaxationResult
from deeprelax_ase.prediction.status import forget

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from deeprelax_ase.optimizers.restart import RestartFolder
    from deeprelax_ase.prediction.predictor import Predictor
    from deeprelax_ase.prediction.record import Prediction


def finish_atoms(
    atoms: Atoms,
    predictor: Predictor,
    calculator: Calculator,
    *,
    prediction: Prediction | None = None,
    fmax: float = 0.05,
    steps: int = 500,
    finish: str | None = "fire",
    relax_cell: RelaxCell = None,
    keep_symmetry: bool = False,
    restart: RestartFolder | None = None,
    calculator_name: str | None = None,
    observe: Callable[[int], None] | None = None,
) -> tuple[RelaxationResult, Atoms]:
    """Relaxation of one crystal that finishes its prediction under a calculator.

    Args:
        atoms: the unrelaxed crystal; it is not changed.
        predictor: makes the jump.
        calculator: for the finish.
        prediction: of ``atoms``, where ``predictor`` has made it before; nothing is predicted again then.
        fmax: eV/Å, the largest force, and cell gradient, that counts as converged.
        steps: most steps, the jump included.
        finish: name of the optimizer that finishes; None for the jump alone.
        relax_cell: see :meth:`~deeprelax_ase.Predictor.predict`; here with a pressure too.
        keep_symmetry: hold the space group that ``atoms`` have to 0.001 Å by ASE's ``FixSymmetry``.
        restart: keeps what an interrupted relaxation of these atoms needs to be gone on with.
        calculator_name: name of the calculator in the result; by default as
            :func:`~deeprelax_ase.calculators.calculator_name` does.
        observe: is told after each step which it was.

    Returns:
        the result; and the relaxed atoms, which hold energy, forces and stress as the calculator gave them.

    Raises:
        DeepRelaxError: the crystal cannot be relaxed; or whatever the calculator raises.
        ValueError: no relaxation would end at ``fmax``.
    """
    from deeprelax_ase.calculators.counting import CallCounter
    from deeprelax_ase.calculators.identity import calculator_name as name_of
    from deeprelax_ase.calculators.identity import potential_name
    from deeprelax_ase.optimizers.deeprelax import DeepRelaxOptimizer
    from deeprelax_ase.optimizers.restart import gone_on_with
    from deeprelax_ase.optimizers.symmetry import hold_symmetry

    check_fmax(fmax)
    name = calculator_name or name_of(calculator)
    relaxed = atoms.copy()
    if keep_symmetry:
        hold_symmetry(relaxed, relax_cell)
    options: dict[str, Any] = {"predictor": predictor, "prediction": prediction, "relax_cell": relax_cell}
    options |= {"finish": finish, "logfile": None}
    if restart is not None:
        told = {"model": predictor.model_name, "calculator": name}
        options |= gone_on_with(relaxed, restart, finish=finish, relax_cell=relax_cell, **told)
    relaxed.calc = calculator
    with CallCounter(calculator) as counter, DeepRelaxOptimizer(relaxed, **options) as optimizer:
        if observe is not None:
            optimizer.attach(lambda: observe(optimizer.nsteps))
        last = [calculator]  # or one that remembers where a step was taken back to
        optimizer.attach(lambda: last.append(relaxed.calc))
        converged = optimizer.run(fmax=fmax, steps=steps)
    _keep_results(relaxed, last[-1])
    if keep_symmetry:
        relaxed.set_constraint(atoms.constraints)
    forces = relaxed.calc.results.get("forces")
    result = RelaxationResult.finished(
        given_crystal(atoms),
        given_crystal(relaxed),
        prediction=optimizer.prediction,  # None where the start was converged already
        judgement=optimizer.judgement,
        decision=optimizer.decision,
        converged=converged,
        alone=finish is None,
        model=predictor.model_name,
        energy=relaxed.calc.results.get("energy"),
        fmax=largest_force(relaxed),
        forces=None if forces is None else np.ravel(forces).tolist(),
        steps=optimizer.nsteps,
        force_calls=counter.calls,
        calculator=name,
        potential=potential_name(calculator),
    )
    forget(relaxed)
    relaxed.info.update(result.info)
    return result, relaxed


def given_crystal(atoms: Atoms) -> Crystal:
    """The crystal of ``atoms``, unchecked."""
    return Crystal(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, atoms.constraints)


def _keep_results(atoms: Atoms, calculator: Calculator) -> None:
    """Give ``atoms`` their results to keep: the calculator goes on to the next crystal."""
    from ase.calculators.calculator import all_properties
    from ase.calculators.singlepoint import SinglePointCalculator

    results = {} if calculator.calculation_required(atoms, ["energy"]) else calculator.results
    kept = {name: value for name, value in results.items() if name in all_properties}
    atoms.calc = SinglePointCalculator(atoms, **kept)
