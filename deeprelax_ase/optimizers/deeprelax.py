"""The one-shot relaxation as an ASE optimizer: its first step is the jump, the others are a finishing optimizer's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ase import Atoms
from ase.filters import Filter
from ase.optimize.optimize import DEFAULT_MAX_STEPS, Optimizer

from deeprelax_ase.optimizers import log
from deeprelax_ase.optimizers.acceptance import JumpCriteria, JumpDecision, forget_snapshot
from deeprelax_ase.optimizers.ase_versions import close_along, plain_path, satisfies, write_log
from deeprelax_ase.optimizers.comparison import Comparison
from deeprelax_ase.optimizers.degrees_of_freedom import (
    degrees_of_freedom,
    refuse_constraints,
    refuse_missing_stress,
    refuse_pressure_alone,
)
from deeprelax_ase.optimizers.display import optimizer_facts, optimizer_line
from deeprelax_ase.optimizers.finish import Finish, resolve_finish
from deeprelax_ase.optimizers.leap import Leap, LeapSettings
from deeprelax_ase.optimizers.restart import FinishMemory, read_record, write_record
from deeprelax_ase.optimizers.shared import shared_predictor
from deeprelax_ase.optimizers.slab import crystal_of
from deeprelax_ase.optimizers.symmetry import symmetrize_first
from deeprelax_ase.optimizers.target import model_for
from deeprelax_ase.prediction.display import html_table
from deeprelax_ase.prediction.status import ERROR_KEYS, forget

if TYPE_CHECKING:
    from deeprelax_ase.prediction.predictor import Predictor
    from deeprelax_ase.prediction.record import Prediction


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
    directions (``pbc=(1, 1, 0)``) are strained in the plane alone, so that an upright cell vector out of it is kept.

    Positions and, where it may move, the cell are changed, and keys of ``atoms.info`` are written: those of
    :attr:`~deeprelax_ase.prediction.record.Prediction.info`, the calibrated errors until the finish moves on;
    ``deeprelax_jump``, ``"kept"``, ``"rejected"`` or ``"refused"``, with the reason in ``deeprelax_jump_reason``; and
    ``deeprelax_status``, one of ``"predicted"`` (the atoms are where the model put them, and not converged or not
    checked), ``"refused"``, ``"converged"`` and ``"not converged"`` (of a finish). Atoms are not wrapped into the cell.
    Where a run ends at a geometry that was come back to, the calculator is asked anew when the atoms are.

    Attributes:
        prediction: the :class:`~deeprelax_ase.Prediction`, with uncertainties and timings, as the model
            made it, before constraints; None before the jump, and after a restart.
        decision: what became of the jump, a :class:`~deeprelax_ase.optimizers.acceptance.JumpDecision`; None before it.

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
        predictor: a :class:`~deeprelax_ase.Predictor` to use, instead of ``model``, ``device`` and
            ``graph_backend``. Default predictors are loaded at the first jump and shared in the process.
        prediction: a :class:`~deeprelax_ase.Prediction` of these very atoms by this model, made before; the jump uses
            it and predicts nothing again.
        relax_cell: whether the cell of bare ``Atoms`` is relaxed along with the positions; if not, it is kept exactly.
        finish: class, or name in ``ase.optimize``, of the optimizer that finishes; ``"fast"`` for
            :class:`~deeprelax_ase.optimizers.model_hessian.ModelHessianBFGS`, None for the jump alone.
        finish_kwargs: options of the finishing optimizer, such as ``{"maxstep": 0.1}``.
        force_informed_steps: most further jumps, each with the forces known where the last one landed; one that raises
            the energy is taken back. By default 2 where the model has learnt to read the calculator's forces, the cell
            moves, and the finish learns no curvature, as with ``DeepRelax-M3GNet`` under M3GNet and FIRE; else none.
        criteria: when a jump under a calculator is kept.
        max_error: Å, the largest expected error of the coordinates that is trusted without a calculator; None for the
            calibrated limit (:attr:`~deeprelax_ase.uncertainty.calibration.CalibratedError.ood`), ``math.inf`` for
            none.
        on_uncertain: what comes with a jump that is refused for that: ``"warn"`` for a warning, ``"raise"`` for an
            ``UncertainPredictionError``, ``"keep"`` for nothing but the note in ``atoms.info`` and log.
        compare: class, or name, of an optimizer, such as ``"fire"``, that relaxes the crystal from its start as well,
            after the finish, within the same ``steps``; the lower minimum is kept. It makes the result never worse
            than that optimizer's, and costs what that optimizer costs. None for no comparison.
        symprec: Å, tolerance within which bare atoms are made exactly symmetric first; None to take them as they are.
            A relaxation keeps the symmetry that its start has to 0.001 Å.
        device: where the network runs: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        graph_backend: what builds the graph, see :class:`~deeprelax_ase.Predictor`.
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
        prediction: Prediction | None = None,
        relax_cell: bool = True,
        finish: str | type[Optimizer] | None = "fire",
        finish_kwargs: dict[str, Any] | None = None,
        force_informed_steps: int | None = None,
        criteria: JumpCriteria | None = None,
        max_error: float | None = None,
        on_uncertain: str = "warn",
        compare: str | type[Optimizer] | None = None,
        symprec: float | None = None,
        device: str = "auto",
        graph_backend: str = "torch",
        **kwargs: Any,
    ) -> None:
        if predictor is not None and model is not None:
            raise ValueError("give either a predictor or a model, not both")
        self._freedom = degrees_of_freedom(atoms, relax_cell=relax_cell)
        options = dict(finish_kwargs or {})
        self.finish = None if finish is None else Finish(finish, options, self._freedom, self._remember)
        self._predictor = predictor
        self._predictor_options = {"model": model, "device": device, "graph_backend": graph_backend}
        settings = LeapSettings(force_informed_steps, criteria or JumpCriteria(), max_error, on_uncertain)
        self._leap = Leap(
            self._freedom,
            lambda: self.predictor,
            settings,
            finish=self.finish.name if self.finish else None,
            prediction=prediction,
        )
        if compare is not None and (finish is None or restart is not None):
            raise ValueError(f"{compare=} needs a finish to compare with, and does not go with restart=")
        self._compare = None if compare is None else resolve_finish(compare)
        self._comparison: Comparison | None = None
        self._symprec = symprec
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
    def decision(self) -> JumpDecision | None:
        """What became of the jump; None before it."""
        return None if self._leap.record is None else self._leap.record.decision

    @property
    def prediction(self) -> Prediction | None:
        """As the model made it, before constraints; None before the jump and after a restart."""
        return self._leap.prediction

    def __repr__(self) -> str:
        return optimizer_line(type(self).__name__, self._facts())

    def _repr_html_(self) -> str:
        return html_table(type(self).__name__, self._facts())

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
        dof = self._freedom
        refuse_constraints(dof.atoms)
        refuse_pressure_alone(dof)
        if self._leap.record is None and steps > 0:
            crystal_of(dof.atoms)  # refused before a costly calculator is called
        self.fmax = fmax
        if dof.has_calculator:
            refuse_missing_stress(dof)
        if self._symprec is not None and self._leap.record is None and self.nsteps == 0:
            symmetrize_first(dof, self._symprec)
            self._symprec = None
        if self._leap.record is None and steps > 0:
            self._leap.refuse_foreign_prediction()
        if not dof.has_calculator:
            return self._labelled(self._irun_without_calculator(steps))
        if self.finish is None:
            steps = min(steps, 1 if self._leap.record is None else 0)
        else:
            # wrong finish_kwargs show before a costly calculator is called
            made = self.finish.prepare(None if self._leap.record is None else self._leap.record.memory)
            if made is not None:
                close_along(self, made)
        run = super().irun(fmax=fmax, steps=steps)
        return self._labelled(run if self._compare is None else self._compared(run))

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
            record = self._leap.record
            return record is not None and record.solver_converged and record.decision.kept
        if gradient is not None:
            return bool(super().converged(gradient=gradient))  # ASE says until when it knows this keyword
        return satisfies(self, forces)

    def step(self) -> None:
        """The jump, one of its corrections, or one step of the finish."""
        if self._comparison is not None:
            self._comparison.step(self.fmax)
            forget_snapshot(self._freedom)
        elif self._leap.record is None:
            self._make_jump()
        elif not self._leap.correct():
            if self.finish is None:
                raise RuntimeError("finish=None: there is no step after the jump")
            self._leap.end()
            self.finish.step(self.fmax)
            forget_snapshot(self._freedom)
        if not self._leap.at_prediction and self._freedom.has_calculator:
            forget(self._freedom.atoms, ERROR_KEYS)
        self._label(False)  # until the new forces are known

    def call_observers(self) -> None:
        """Call what was attached; ``atoms.info`` is brought up to date first, so that frames hold their own status.

        The restart file is written after the frame that it goes on from, wherever a crash comes.
        """
        self._label(self.fmax is not None and self.converged())
        super().call_observers()
        self._save()

    def read(self) -> None:
        """Take up the jump, and the finish's memory, from the restart file. Called by ASE when the file exists."""
        jump = read_record(self.restart, self._freedom.atoms)  # type: ignore[arg-type]
        taken_back = not jump.decision.kept and jump.memory is None  # the atoms are where they started, rightly
        if taken_back or not jump.starts_from(self._freedom.atoms):
            self._leap.record = jump
            self._freedom.restore_orig_cell(jump.orig_cell)

    def _make_jump(self) -> None:
        refuse_constraints(self._freedom.atoms)
        record = self._leap.make()
        if self._leap.prediction is not None:
            log.label_prediction(self._freedom.atoms, self._leap.prediction)
        write_log(self, log.jump_line(record, type(self).__name__, self.nsteps + 1))

    def _facts(self) -> dict[str, str]:
        finish = "none" if self.finish is None else self.finish.name
        started = self.fmax is not None
        return optimizer_facts(self._freedom, decision=self.decision, steps=self.nsteps, finish=finish, started=started)

    def _remember(self, memory: FinishMemory) -> None:
        if self._leap.record is not None and self.restart is not None:
            self._leap.record = replace(self._leap.record, memory=memory)

    def _save(self) -> None:
        if self._leap.record is not None and self.restart is not None and self.comm.rank == 0:
            write_record(self.restart, self._leap.record)

    def _compared(self, run: Iterator[bool]) -> Iterator[bool]:
        """``run``, and the other way after it, see :class:`~deeprelax_ase.optimizers.comparison.Comparison`."""
        converged = False
        for converged in run:
            yield converged
        record, start = self._leap.record, self._leap.start
        if not converged or record is None or start is None or not record.decision.kept or self._compare is None:
            return
        self._comparison = Comparison(self._compare, self._freedom, start)
        try:
            for converged in super().irun(fmax=self.fmax, steps=self.max_steps - self.nsteps):  # noqa: B007
                yield False
        except BaseException:  # interrupted, or left by the caller
            self._comparison.give_up()
            self._comparison = None
            raise
        decision = self._comparison.decide(record.decision, converged=converged)
        self._comparison, self._compare = None, None
        self._leap.record = replace(record, decision=decision, over=True)
        self.nsteps += 1
        write_log(self, log.jump_line(self._leap.record, type(self).__name__, self.nsteps))
        self.call_observers()
        yield self.converged()

    def _irun_without_calculator(self, steps: int) -> Iterator[bool]:
        self.max_steps = self.nsteps + steps
        if self.nsteps == 0 and self._trajectory_is_empty():
            self.call_observers()
        yield self.converged()
        if self._leap.record is None and steps > 0:
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
            forget_snapshot(self._freedom)

    def _label(self, converged: bool) -> None:
        log.label(self._freedom, self._leap.record, converged=converged, at_prediction=self._leap.at_prediction)


class DeepRelaxPositions(DeepRelaxOptimizer):
    """:class:`DeepRelaxOptimizer` that keeps the cell of bare ``Atoms``, exactly.

    For libraries that pass bare ``Atoms`` and mean a fixed cell, and wrap them in a cell filter when it may move.
    """

    def __init__(self, atoms: Atoms | Filter, *args: Any, relax_cell: bool = False, **kwargs: Any) -> None:
        super().__init__(atoms, *args, relax_cell=relax_cell, **kwargs)
