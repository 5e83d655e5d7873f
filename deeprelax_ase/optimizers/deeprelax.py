"""The one-shot relaxation as an ASE optimizer: its first step is the jump, the others are a finishing optimizer's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ase import Atoms
from ase.filters import Filter
from ase.optimize.optimize import DEFAULT_MAX_STEPS, Optimizer

from deeprelax_ase.errors import ModelError, StructureError
from deeprelax_ase.optimizers import report
from deeprelax_ase.optimizers._ase import close_along, plain_path, satisfies, write_log
from deeprelax_ase.optimizers.finish import Finish
from deeprelax_ase.optimizers.freedom import (
    freedom_of,
    refuse_constraints,
    refuse_missing_stress,
    refuse_pressure_alone,
)
from deeprelax_ase.optimizers.remembered import Remembered
from deeprelax_ase.optimizers.restart import FinishMemory, JumpRecord, read_record, write_record
from deeprelax_ase.optimizers.shared import shared_predictor
from deeprelax_ase.optimizers.slab import crystal_of, slab_normal
from deeprelax_ase.optimizers.symmetry import symmetrize_first
from deeprelax_ase.optimizers.target import model_for
from deeprelax_ase.optimizers.trial import KEPT, JumpCriteria, Verdict, attempt
from deeprelax_ase.optimizers.uncertain import ON_UNCERTAIN, announce, refusal
from deeprelax_ase.prediction import ERROR_KEYS, forget

if TYPE_CHECKING:
    from deeprelax_ase.prediction import Prediction
    from deeprelax_ase.predictor import Predictor

#: Further jumps under a calculator whose forces the model has learnt to read.
CORRECTIONS = 2


class DeepRelaxOptimizer(Optimizer):
    """Relax a crystal: jump to where the model predicts its minimum, then finish under the atoms' calculator.

    >>> atoms.calc = calculator
    >>> DeepRelaxOptimizer(atoms).run(fmax=0.05, steps=500)

    The jump is the first step; it counts as one in ``nsteps`` and in the budget ``steps``, and stands in the same log
    and trajectory as the steps of the finish: frame 0 is the unrelaxed crystal, frame 1 the predicted one. It is made
    once; a second ``run`` goes on with the finish. As with every ASE optimizer, ``steps=0`` only evaluates, and a start
    that already satisfies ``fmax`` stays where it is.

    Under a calculator the jump is taken back unless it meets ``criteria``: by default it must not raise the energy.
    That takes no call of the calculator that the finish would not make, but the one at a prediction that is given up.

    Atoms without a calculator (or with stored results of a file) are left at the prediction, unless the model expects
    to be further off than ``max_error``: then they stay where they are. Nothing can be said about forces, so ``run``
    returns whether the prediction was made and its geometry solver came to rest.

    Constraints and filters are honoured exactly: the jump goes as far as they allow. Atoms that repeat in two
    directions (``pbc=(1, 1, 0)``) are relaxed in the plane, and the cell vector out of it is kept.

    Positions and, where it may move, the cell are changed, and keys of ``atoms.info`` are written: those of
    :attr:`~deeprelax_ase.prediction.Prediction.info`, the calibrated errors until the finish moves on;
    ``deeprelax_jump``, ``"kept"``, ``"taken back"`` or ``"refused"``, with the reason in ``deeprelax_jump_reason``; and
    ``deeprelax_status``, one of ``"predicted"`` (the atoms are where the model put them, and not converged or not
    checked), ``"refused"``, ``"converged"`` and ``"not converged"`` (of a finish). Atoms are not wrapped into the cell.

    Attributes:
        prediction: the :class:`~deeprelax_ase.prediction.Prediction`, with uncertainties and timings, as the model
            made it, before constraints; None before the jump, and after a restart.
        verdict: what became of the jump, a :class:`~deeprelax_ase.optimizers.trial.Verdict`; None before it.

    Args:
        atoms: bare ``Atoms``, or an ASE filter, which then says for itself what may move.
        restart: JSON file that is kept up to date with what a later optimizer needs to go on: whether the jump was
            made and the memory of the finish. As in ASE, the atoms come from the trajectory; from the unrelaxed
            crystal the relaxation begins anew.
        logfile: file, path, ``"-"`` for the terminal or None for no log.
        trajectory: path of a trajectory file, or an open ``Trajectory``.
        append_trajectory: append to the file at ``trajectory`` instead of replacing it.
        model: name or path of a model; None for the one that jumps nearest to the minima of the atoms' calculator:
            ``DeepRelax-M3GNet`` for M3GNet, ``DeepRelax-PBE`` otherwise.
        predictor: a :class:`~deeprelax_ase.predictor.Predictor` to use, instead of ``model``, ``device`` and
            ``graph_backend``. Default predictors are loaded at the first jump and shared in the process.
        relax_cell: whether the cell of bare ``Atoms`` is relaxed along with the positions; if not, it is kept exactly.
        finish: class, or name in ``ase.optimize``, of the optimizer that finishes; ``"fast"`` for
            :class:`~deeprelax_ase.optimizers.model_hessian.ModelHessianBFGS`, None for the jump alone.
        finish_kwargs: options of the finishing optimizer, such as ``{"maxstep": 0.1}``.
        corrections: most further jumps, each with the forces known where the last one landed; one that raises the
            energy is taken back. By default 2 where the model has learnt to read the calculator's forces and the cell
            moves, as with ``DeepRelax-M3GNet`` under M3GNet, and none otherwise.
        criteria: when a jump under a calculator is kept.
        max_error: Å, the largest expected error of the coordinates that is trusted without a calculator; None for the
            calibrated limit (:attr:`~deeprelax_ase.calibration.CalibratedError.outside`), ``math.inf`` for none.
        on_uncertain: what comes with a jump that is refused for that: ``"warn"`` for a warning, ``"raise"`` for an
            ``UncertainPredictionError``, ``"keep"`` for nothing but the note in ``atoms.info`` and log.
        symprec: Å, tolerance within which bare atoms are made exactly symmetric first; None to take them as they are.
            A relaxation keeps the symmetry that its start has to 0.001 Å.
        device: where the network runs: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        graph_backend: what builds the graph, see :class:`~deeprelax_ase.predictor.Predictor`.
        **kwargs: options of ASE's ``Optimizer``, such as ``loginterval``.

    Raises:
        ConstraintError: the atoms carry a constraint, or a filter restricts the motion, that a jump cannot honour.
        StructureError: when run, for atoms that the model cannot relax, such as molecules.
        CalculatorError: when run, for bare atoms whose calculator has no stress to relax the cell with.
    """

    fmax: Any

    def __init__(
        self,
        atoms: Atoms | Filter,
        restart: str | Path | None = None,
        logfile: IO | str | Path | None = "-",
        trajectory: Any = None,
        append_trajectory: bool = False,
        *,
        model: Any = None,
        predictor: Predictor | None = None,
        relax_cell: bool = True,
        finish: str | type[Optimizer] | None = "fire",
        finish_kwargs: dict[str, Any] | None = None,
        corrections: int | None = None,
        criteria: JumpCriteria | None = None,
        max_error: float | None = None,
        on_uncertain: str = "warn",
        symprec: float | None = None,
        device: str = "auto",
        graph_backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        if predictor is not None and model is not None:
            raise ValueError("give either a predictor or a model, not both")
        if on_uncertain not in ON_UNCERTAIN:
            raise ValueError(f"{on_uncertain=} must be one of {ON_UNCERTAIN}")
        self.prediction: Prediction | None = None
        self._freedom = freedom_of(atoms, relax_cell=relax_cell)
        options = dict(finish_kwargs or {})
        self.finish = None if finish is None else Finish(finish, options, self._freedom, self._remember)
        self._predictor = predictor
        self._predictor_options = {"model": model, "device": device, "graph_backend": graph_backend}
        self._check_corrections(corrections)
        self._corrections = corrections
        self._criteria = JumpCriteria() if criteria is None else criteria
        self._max_error, self._on_uncertain = max_error, on_uncertain
        self._symprec = symprec
        self._jump: JumpRecord | None = None
        self._at_prediction = False
        super().__init__(
            atoms,  # type: ignore[arg-type]
            plain_path(restart),
            plain_path(logfile),
            plain_path(trajectory),
            append_trajectory=append_trajectory,
            **kwargs,
        )
        self.optimizable = self._freedom.target.__ase_optimizable__()

    @property
    def predictor(self) -> Predictor:
        """The predictor of the jump, loaded when first asked for."""
        if self._predictor is None:
            model = self._predictor_options["model"] or model_for(self._freedom.atoms.calc)
            self._predictor = shared_predictor(**{**self._predictor_options, "model": model})
        return self._predictor

    @property
    def verdict(self) -> Verdict | None:
        """What became of the jump; None before it."""
        return None if self._jump is None else self._jump.verdict

    def todict(self) -> dict[str, Any]:
        """Description for trajectory headers."""
        finish = None if self.finish is None else self.finish.name
        return {**super().todict(), "relax_cell": self._freedom.moves_cell, "finish": finish}

    def irun(self, fmax: float = 0.05, steps: int = DEFAULT_MAX_STEPS) -> Iterator[bool]:  # type: ignore[override]
        """Relax step by step.

        Args:
            fmax: eV/Å, the largest force, and cell gradient where the cell moves, that counts as converged.
            steps: most steps to take, the jump included.

        Yields:
            whether the atoms are converged, before the first step and after each.
        """
        freedom = self._freedom
        refuse_constraints(freedom.atoms)
        refuse_pressure_alone(freedom)
        if self._jump is None and steps > 0:
            crystal_of(freedom.atoms)  # refused before a costly calculator is called
        self.fmax = fmax
        if freedom.has_calculator:
            refuse_missing_stress(freedom)
        if self._symprec is not None and self._jump is None and self.nsteps == 0:
            symmetrize_first(freedom, self._symprec)
            self._symprec = None
        if not freedom.has_calculator:
            return self._labelled(self._irun_without_calculator(steps))
        if self.finish is None:
            steps = min(steps, 1 if self._jump is None else 0)
        else:
            # wrong finish_kwargs show before a costly calculator is called
            made = self.finish.prepare(None if self._jump is None else self._jump.memory)
            if made is not None:
                close_along(self, made)
        return self._labelled(super().irun(fmax=fmax, steps=steps))

    def run(self, fmax: float = 0.05, steps: int = DEFAULT_MAX_STEPS) -> bool:  # type: ignore[override]
        """Relax until converged or out of ``steps``; options and result as in :meth:`irun`."""
        converged = False
        for converged in self.irun(fmax=fmax, steps=steps):  # noqa: B007
            pass
        return bool(converged)

    def converged(self, forces: Any = None, *, gradient: Any = None) -> bool:
        """Whether the forces, and the stress where the cell moves, satisfy ``fmax``; without a calculator see above.

        Args:
            forces: (D, 3) or (3 D,) eV/Å, forces or gradient; None to have the calculator asked.
            gradient: the same, as some of ASE's versions call it.
        """
        if not self._freedom.has_calculator:
            return self._jump is not None and self._jump.solver_converged and self._jump.verdict.kept
        if gradient is not None:
            return bool(super().converged(gradient=gradient))  # ASE says until when it knows this keyword
        return satisfies(self, forces)

    def step(self) -> None:
        """The jump, or one step of the finish."""
        if self._jump is None:
            self._make_jump()
        elif not self._correct():
            if self.finish is None:
                raise RuntimeError("finish=None: there is no step after the jump")
            self._jump = replace(self._jump, over=True)
            self.finish.step(self.fmax)
            self._forget_start()
            self._moved_on()
        self._label(False)  # until the new forces are known

    def call_observers(self) -> None:
        """Call what was attached; ``atoms.info`` is brought up to date first, so that frames hold their own status."""
        self._label(self.fmax is not None and self.converged())
        super().call_observers()

    def read(self) -> None:
        """Take up the jump, and the finish's memory, from the restart file. Called by ASE when the file exists."""
        jump = read_record(self.restart, self._freedom.atoms)  # type: ignore[arg-type]
        taken_back = not jump.verdict.kept and jump.memory is None  # the atoms are where they started, rightly
        if taken_back or not jump.starts_from(self._freedom.atoms):
            self._jump = jump
            self._freedom.restore_orig_cell(jump.orig_cell)

    def _make_jump(self) -> None:
        from deeprelax_ase.optimizers.jump import carry_out, jump, predict  # here, as they load torch

        freedom, atoms, predictor = self._freedom, self._freedom.atoms, self.predictor
        refuse_constraints(atoms)
        if self._corrections and not predictor.corrects:
            raise ModelError(
                f"{predictor.model_name} has not learnt to read forces: leave corrections={self._corrections} out"
            )
        positions, cell = atoms.positions.copy(), atoms.cell.array.copy()
        if freedom.has_calculator:
            prediction, verdict = attempt(freedom, lambda: jump(freedom, predictor), self._criteria)
        else:
            prediction = predict(freedom, predictor)
            verdict = refusal(prediction, self._max_error) or Verdict(KEPT, "no calculator to check it, no finish")
            if verdict.kept:
                carry_out(freedom, predictor, prediction)
            else:
                announce(verdict, self._on_uncertain)
        self.prediction = prediction
        self._at_prediction = verdict.kept
        self._jump = JumpRecord(
            numbers=atoms.numbers.copy(),
            positions=positions,
            cell=cell,
            model=prediction.model,
            uncertainty=float(prediction.uncertainty.total),
            solver_converged=bool(prediction.solver_converged),
            verdict=verdict,
            over=not verdict.kept,
            orig_cell=freedom.orig_cell,
        )
        report.label_prediction(atoms, prediction)
        write_log(self, report.jump_line(self._jump, type(self).__name__, self.nsteps + 1))
        self._save()

    def _correct(self) -> bool:
        """Jump again, with the forces; whether there was anything to do."""
        jump = self._jump
        if jump is None or jump.over or jump.memory is not None or jump.corrections >= self._most_corrections(jump):
            return False
        from deeprelax_ase.optimizers.jump import jump_again

        try:
            _, verdict = attempt(self._freedom, lambda: jump_again(self._freedom, self.predictor), JumpCriteria())
        except StructureError:  # the last jump led where the network cannot follow; the finish may
            return False
        self._jump = replace(jump, corrections=jump.corrections + 1, over=not verdict.kept)
        if verdict.kept:
            self._moved_on()
        self._save()
        return True

    def _most_corrections(self, jump: JumpRecord) -> int:
        if self._corrections is not None or not self._corrects:
            return self._corrections or 0
        of_calculator = jump.model == model_for(self._freedom.atoms.calc)
        return CORRECTIONS if of_calculator and self.predictor.corrects else 0

    @property
    def _corrects(self) -> bool:
        """Whether forces and stress, which the network reads together, are those of a crystal that moves as a whole."""
        return self._freedom.moves_cell and self.finish is not None and slab_normal(self._freedom.atoms) is None

    def _check_corrections(self, corrections: int | None) -> None:
        if corrections is not None and (corrections < 0 or corrections != int(corrections)):
            raise ValueError(f"{corrections=} must be a whole number, 0 for none")
        if corrections and not self._corrects:
            raise ValueError(
                f"{corrections=} need a crystal whose cell may move, as forces and stress are read together, and a "
                "finish, which looks at what they lead to"
            )

    def _moved_on(self) -> None:
        """The atoms are not any more where the first jump put them."""
        self._at_prediction = False
        forget(self._freedom.atoms, ERROR_KEYS)

    def _forget_start(self) -> None:
        """Give the atoms their calculator back, where a jump was taken back and its start remembered."""
        atoms = self._freedom.atoms
        if isinstance(atoms.calc, Remembered):
            atoms.calc = atoms.calc.calculator

    def _remember(self, memory: FinishMemory) -> None:
        if self._jump is not None and self.restart is not None:
            self._jump = replace(self._jump, memory=memory)
            self._save()

    def _save(self) -> None:
        if self._jump is not None and self.restart is not None and self.comm.rank == 0:
            write_record(self.restart, self._jump)

    def _irun_without_calculator(self, steps: int) -> Iterator[bool]:
        self.max_steps = self.nsteps + steps
        if self.nsteps == 0 and self._trajectory_is_empty():
            self.call_observers()
        yield self.converged()
        if self._jump is None and steps > 0:
            self.step()
            self.nsteps += 1
            self.call_observers()
            yield self.converged()

    def _trajectory_is_empty(self) -> bool:
        if self.trajectory is None:
            return True
        if hasattr(self, "_traj_is_empty"):
            return self._traj_is_empty()
        return len(self.trajectory) == 0  # type: ignore[arg-type]  # an ASE that keeps its trajectory open

    def _labelled(self, run: Iterator[bool]) -> Iterator[bool]:
        try:
            for converged in run:
                self._label(converged)
                yield bool(converged)
        finally:
            self._forget_start()

    def _label(self, converged: bool) -> None:
        report.label(self._freedom, self._jump, converged=converged, at_prediction=self._at_prediction)


class DeepRelaxPositions(DeepRelaxOptimizer):
    """:class:`DeepRelaxOptimizer` that keeps the cell of bare ``Atoms``, exactly.

    For libraries that pass bare ``Atoms`` and mean a fixed cell, and wrap them in a cell filter when it may move.
    """

    def __init__(self, atoms: Atoms | Filter, *args: Any, relax_cell: bool = False, **kwargs: Any) -> None:
        super().__init__(atoms, *args, relax_cell=relax_cell, **kwargs)
