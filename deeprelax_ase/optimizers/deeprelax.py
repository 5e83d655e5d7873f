"""The one-shot relaxation as an ASE optimizer: its first step is the jump, the others are a finishing optimizer's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from ase import Atoms
from ase.filters import Filter
from ase.optimize.optimize import DEFAULT_MAX_STEPS, Optimizer

from deeprelax_ase.errors import CalculatorError
from deeprelax_ase.io.constraints import refuse_constraints
from deeprelax_ase.optimizers import log
from deeprelax_ase.optimizers.acceptance import JumpCriteria, Snapshot, forces_are_finite, forget_snapshot, lost_cell
from deeprelax_ase.optimizers.ase_versions import close_along, plain_path, satisfies, trajectory_is_empty, write_log
from deeprelax_ase.optimizers.degrees_of_freedom import degrees_of_freedom, refuse_missing_stress, refuse_tilted_layers
from deeprelax_ase.optimizers.finish import Finish
from deeprelax_ase.optimizers.jump import Jump, JumpSettings
from deeprelax_ase.optimizers.log import optimizer_facts, optimizer_line
from deeprelax_ase.optimizers.restart import FinishMemory, read_record, write_record
from deeprelax_ase.optimizers.symmetry import symmetrize_first
from deeprelax_ase.prediction.allowed_strain import RelaxCell, refuse_pressure_alone
from deeprelax_ase.prediction.display import html_table
from deeprelax_ase.prediction.judgement import WARN, Judgement, TrustLimits
from deeprelax_ase.prediction.status import TRUSTED, JumpDecision
from deeprelax_ase.uncertainty.worsening import MAX_ODDS_WORSE

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

    Under a calculator the jump is rejected unless it meets ``criteria``: by default it must not raise the energy. This
    check costs one further call of the calculator, and only where the prediction is given up.

    Atoms without a calculator (or with stored results of a file) are left at the prediction, and ``run`` returns
    whether it is to be trusted. ``on_uncertain`` sets the treatment of one that is not.

    Constraints and filters are honoured exactly: the jump goes as far as they allow. Layers and slabs,
    whatever their ``pbc`` says, are strained in their plane alone, so that an upright cell vector out of it is kept.

    Positions and, where it may move, the cell are changed, and keys of ``atoms.info`` are written: those of
    :attr:`~deeprelax_ase.prediction.record.Prediction.info`, the calibrated errors until the finish moves on;
    ``deeprelax_jump``, ``"kept"``, ``"rejected"`` or ``"skipped"``, with the reason in ``deeprelax_jump_reason``;
    ``deeprelax_calculator``, and in ``deeprelax_potential`` the name of its weights; and ``deeprelax_status``: that of
    the :attr:`judgement` as long as nothing moves on from the prediction; then ``"converged"``, ``"not converged"``, or
    ``"jump rejected"`` where the jump was all; ``deeprelax_reason`` tells why. Atoms are not wrapped into the cell.
    Where a run ends at a geometry that was come back to, the calculator is asked anew when the atoms are.

    Attributes:
        prediction: the :class:`~deeprelax_ase.Prediction`, before constraints; None before it and after a restart.
        decision: about the jump, a :class:`~deeprelax_ase.prediction.JumpDecision`; None before it.
        judgement: of the prediction, a :class:`~deeprelax_ase.prediction.Judgement`; None before the jump.

    Args:
        atoms: bare ``Atoms``, or an ASE filter, which then says for itself what may move.
        restart: JSON file that is kept up to date with what a later optimizer needs to go on: whether the jump was
            made and the memory of the finish. As in ASE, the atoms come from the trajectory; from the unrelaxed
            crystal the relaxation begins anew.
        logfile: file, path, ``"-"`` for the terminal or None for no log.
        trajectory: path of a trajectory file, or an open ``Trajectory``.
        append_trajectory: append to the file at ``trajectory`` instead of replacing it.
        model: name or path of a model; None for the one that jumps nearest to the minima of the atoms' calculator:
            ``DeepRelax-M3GNet`` for the weights of M3GNet-MP-2021.2.8-PES, ``DeepRelax-PBE`` otherwise.
        predictor: a :class:`~deeprelax_ase.Predictor` to use, instead of ``model``, ``device``, ``graph_backend`` and
            ``one_shot``. Default predictors are loaded at the first jump and shared in the process.
        prediction: a :class:`~deeprelax_ase.Prediction` of these very atoms by this model, made before; the jump uses
            it and predicts nothing again.
        relax_cell: whether the cell of bare ``Atoms`` is relaxed too, or kept exactly; by default it is, unless they
            are a slab. Layers and slabs are strained in their plane only. An :class:`~deeprelax_ase.AllowedStrain`
            says how it may move, and under which pressure.
        finish: class, or name in ``ase.optimize``, of the optimizer that finishes; ``"fast"`` for
            :class:`~deeprelax_ase.optimizers.model_hessian.ModelHessianBFGS`, None for the jump alone.
        finish_kwargs: options of the finishing optimizer, such as ``{"maxstep": 0.1}``.
        force_informed_steps: most further jumps, each with the forces known where the last one landed; one that raises
            the energy is undone. By default 2 where the model has learnt to read the calculator's forces, the cell
            moves, and the finish learns no curvature, as with ``DeepRelax-M3GNet`` under M3GNet and FIRE; else none.
        criteria: when a jump under a calculator is kept.
        max_error: Å, the largest expected error of the coordinates that is trusted; None for no limit. Crystals unlike
            those that the model knows (:attr:`~deeprelax_ase.uncertainty.CalibratedError.ood`) are never trusted.
        max_volume_error: the same of the volume, a fraction.
        max_odds_worse: the largest probability that the crystal ends further from its minimum than it began, or None.
        on_uncertain: treatment of a prediction that is not to be trusted, where no calculator checks the jump:
            ``"keep"`` moves the atoms, with a note in ``atoms.info`` and log; ``"warn"`` does so with a warning;
            ``"skip"`` leaves them where they are, with such a note; ``"finish"`` asks for a calculator; ``"raise"`` is
            an ``UncertainPredictionError``.
        symprec: Å, tolerance within which bare atoms are made exactly symmetric first; None to take them as they are.
            A relaxation keeps symmetry that its start has exactly; what is hidden by decimals may be lost without.
        device: for the network: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        graph_backend: builds the graph, see :class:`~deeprelax_ase.Predictor`.
        one_shot: permitted cost of the prediction, ``"default"`` or ``"fast"``, see there.
        **kwargs: options of ASE's ``Optimizer``, such as ``loginterval``.

    Raises:
        ConstraintError: the atoms carry a constraint, or a filter restricts the motion, that a jump cannot honour.
        StructureError: when run, for atoms that the model cannot relax, such as molecules, or has not learnt.
        CalculatorError: when run, for bare atoms whose calculator has no stress to relax the cell with; or where a
            calculator is to finish uncertain predictions, and there is none.
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
        relax_cell: RelaxCell = None,
        finish: str | type[Optimizer] | None = "fire",
        finish_kwargs: dict[str, Any] | None = None,
        force_informed_steps: int | None = None,
        criteria: JumpCriteria | None = None,
        max_error: float | None = None,
        max_volume_error: float | None = None,
        max_odds_worse: float | None = MAX_ODDS_WORSE,
        on_uncertain: str = WARN,
        symprec: float | None = None,
        device: str = "auto",
        graph_backend: str = "torch",
        one_shot: str = "default",
        **kwargs: Any,
    ) -> None:
        self._dof = degrees_of_freedom(atoms, relax_cell=relax_cell)
        self.finish = None if finish is None else Finish(finish, dict(finish_kwargs or {}), self._dof, self._remember)
        settings = JumpSettings(
            model=model,
            predictor=predictor,
            prediction=prediction,
            device=device,
            graph_backend=graph_backend,
            one_shot=one_shot,
            force_informed_steps=force_informed_steps,
            criteria=criteria or JumpCriteria(),
            limits=TrustLimits(max_error, max_volume_error, max_odds_worse=max_odds_worse),
            on_uncertain=on_uncertain,
        )
        self._jump = Jump(self._dof, settings, finish=None if self.finish is None else self.finish.name)
        self._last_finite: Snapshot | None = None
        self._symprec = symprec
        super().__init__(
            atoms,  # type: ignore[arg-type]
            plain_path(restart),
            plain_path(logfile),
            plain_path(trajectory),
            append_trajectory=append_trajectory,
            **kwargs,
        )
        self.optimizable = self._dof.target.__ase_optimizable__()

    @property
    def predictor(self) -> Predictor:
        """The predictor of the jump, loaded when first asked for."""
        return self._jump.predictor

    @property
    def decision(self) -> JumpDecision | None:
        """The decision about the jump; None before it."""
        return None if self._jump.record is None else self._jump.record.decision

    @property
    def judgement(self) -> Judgement | None:
        """The judgement of the prediction; None before the jump."""
        return None if self._jump.record is None else self._jump.record.judgement

    @property
    def prediction(self) -> Prediction | None:
        """As the model made it, before constraints; None before the jump and after a restart."""
        return self._jump.prediction

    def __repr__(self) -> str:
        return optimizer_line(type(self).__name__, self._facts())

    def _repr_html_(self) -> str:
        return html_table(type(self).__name__, self._facts())

    def todict(self) -> dict[str, Any]:
        """Description for trajectory headers."""
        finish = None if self.finish is None else self.finish.name
        return {**super().todict(), "relax_cell": self._dof.moves_cell, "finish": finish}

    def irun(self, fmax: float = 0.05, steps: int = DEFAULT_MAX_STEPS) -> Iterator[bool]:  # type: ignore[override]
        """Relax step by step.

        Args:
            fmax: eV/Å, the largest force, and cell gradient where the cell moves, that counts as converged; 0 for all
                of the steps.
            steps: most steps to take, the jump included.

        Yields:
            whether the atoms are converged, before the first step and after each.
        """
        self.fmax = fmax
        self._prepare_run(jumps=self._jump.record is None and steps > 0)
        if not self._dof.has_calculator:
            return self._labelled(self._irun_without_calculator(steps))
        if self.finish is None:
            steps = min(steps, 1 if self._jump.record is None else 0)
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
        if not self._dof.has_calculator:
            return self.judgement is not None and self.judgement.status in TRUSTED
        if gradient is not None:
            return bool(super().converged(gradient=gradient))  # ASE says until when it knows this keyword
        return satisfies(self, forces)

    def step(self) -> None:
        """The jump, a force-informed one, or one step of the finish."""
        if self._jump.record is None:
            self._make_jump()
        elif not self._jump.make_force_informed():
            if self.finish is None:
                raise RuntimeError("finish=None: there is no step after the jump")
            self._jump.end()
            self.finish.step(self.fmax)
            forget_snapshot(self._dof)
            if lost := lost_cell(self._dof):
                self._stop(f"{lost} in step {self.nsteps + 1}{self._dof.told_pressure}")
        self._label(False)  # until the new forces are known

    def call_observers(self) -> None:
        """Call what was attached; ``atoms.info`` is brought up to date first, so that frames hold their own status.

        The restart file is written after the frame that it goes on from, wherever a crash comes.

        Raises:
            CalculatorError: forces are not finite any more; the atoms are back where they last were.
        """
        self._stop_where_forces_are_lost()
        self._label(self.fmax is not None and self.converged())
        super().call_observers()
        self._save()

    def read(self) -> None:
        """Take up the jump, and the finish's memory, from the restart file. Called by ASE when the file exists."""
        jump = read_record(self.restart, self._dof.atoms)  # type: ignore[arg-type]
        undone = not jump.decision.kept and jump.memory is None  # the atoms are where they started, rightly
        if undone or not jump.starts_from(self._dof.atoms):
            self._jump.record = jump
            self._dof.restore_orig_cell(jump.orig_cell)

    def _prepare_run(self, *, jumps: bool) -> None:
        """Refuse what cannot be relaxed before a costly calculator is called; make the atoms symmetric, if asked."""
        refuse_constraints((dof := self._dof).atoms.constraints)
        refuse_pressure_alone(0.0 if dof.has_calculator else dof.pressure)
        refuse_tilted_layers(dof)
        if jumps or (dof.has_calculator and self._jump.record is None):
            self._jump.crystal()  # raises where there is none, also where no step is asked for, as batches do
        if jumps:
            self._jump.refuse_missing_calculator()
        if dof.has_calculator:
            refuse_missing_stress(dof)
        if self._symprec is not None and self._jump.record is None and self.nsteps == 0:
            symmetrize_first(dof, self._symprec)
            self._symprec = None
        if jumps:
            self._jump.refuse_foreign_prediction()
        if dof.has_calculator and self.finish is not None:
            made = self.finish.prepare(None if self._jump.record is None else self._jump.record.memory)
            if made is not None:
                close_along(self, made)

    def _make_jump(self) -> None:
        refuse_constraints(self._dof.atoms.constraints)
        record = self._jump.make()
        write_log(self, log.jump_line(record, self._jump, type(self).__name__, self.nsteps + 1))

    def _facts(self) -> dict[str, str]:
        finish = "none" if self.finish is None else self.finish.name
        known: dict[str, Any] = {"steps": self.nsteps, "finish": finish, "started": self.fmax is not None}
        return optimizer_facts(self._dof, decision=self.decision, **known)

    def _remember(self, memory: FinishMemory) -> None:
        if self._jump.record is not None and self.restart is not None:
            self._jump.record = replace(self._jump.record, memory=memory)

    def _save(self) -> None:
        if self._jump.record is not None and self.restart is not None and self.comm.rank == 0:
            write_record(self.restart, self._jump.record)

    def _stop_where_forces_are_lost(self) -> None:
        """Go back to where forces were finite, and fail; the start alone may be as it likes, as the jump leaves it."""
        if self._dof.has_calculator and forces_are_finite(self._dof):
            self._last_finite = Snapshot(self._dof)
        elif self._dof.has_calculator and self.nsteps > 0:
            self._stop(f"the calculator's forces are not finite after step {self.nsteps}")

    def _stop(self, reason: str) -> NoReturn:
        if self._last_finite is not None:
            self._last_finite.restore()
            reason += "; the atoms are back at the last geometry whose forces are finite"
        if self.finish is not None:
            self.finish.forget()
        log.label_failure(self._dof.atoms, reason)
        raise CalculatorError(f"{reason}. Check the calculator there, or relax with smaller steps.")

    def _irun_without_calculator(self, steps: int) -> Iterator[bool]:
        self.max_steps = self.nsteps + steps
        if self.nsteps == 0 and trajectory_is_empty(self):
            self.call_observers()
        yield self.converged()
        if self._jump.record is None and steps > 0:
            self.step()
            self.nsteps += 1
            self.call_observers()
            yield self.converged()

    def _labelled(self, run: Iterator[bool]) -> Iterator[bool]:
        try:
            for converged in run:
                self._label(converged)
                yield bool(converged)
        finally:
            forget_snapshot(self._dof)

    def _label(self, converged: bool) -> None:
        log.label(self._dof, self._jump, converged=converged, finishes=self.finish is not None)
