"""The one-shot relaxation as an ASE optimizer: its first step is the jump, the others are a finishing optimizer's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ase import Atoms
from ase.filters import Filter
from ase.optimize.optimize import DEFAULT_MAX_STEPS, Optimizer

from deeprelax_ase.errors import ModelError
from deeprelax_ase.optimizers.correction import CORRECTIONS, Correction
from deeprelax_ase.optimizers.finish import resolve_finish
from deeprelax_ase.optimizers.freedom import freedom_of, refuse_constraints, refuse_missing_stress
from deeprelax_ase.optimizers.restart import JumpRecord, read_record, write_record
from deeprelax_ase.optimizers.shared import shared_predictor
from deeprelax_ase.optimizers.target import model_for
from deeprelax_ase.prediction import CONVERGED, ERROR_KEYS, INFO_KEYS, NOT_CONVERGED, PREDICTED, forget
from deeprelax_ase.structure import Crystal

if TYPE_CHECKING:
    from deeprelax_ase.prediction import Prediction
    from deeprelax_ase.predictor import Predictor


class DeepRelaxOptimizer(Optimizer):
    """Relax a crystal: jump to where the model predicts its minimum, then finish under the atoms' calculator.

    >>> atoms.calc = calculator
    >>> DeepRelaxOptimizer(atoms).run(fmax=0.05, steps=500)

    The jump is the first step; it counts as one in ``nsteps`` and in the budget ``steps``, and stands in the same log
    and trajectory as the steps of the finish: frame 0 is the unrelaxed crystal, frame 1 the predicted one. It is made
    once; a second ``run`` goes on with the finish. As with every ASE optimizer, ``steps=0`` only evaluates, and a start
    that already satisfies ``fmax`` stays where it is.

    Atoms without a calculator (or with stored results of a file) are left at the prediction. Nothing can be said about
    forces then, so ``run`` returns whether the prediction was made and its geometry solver came to rest.

    Positions and, where it may move, the cell are changed, and keys of ``atoms.info`` are written: those of
    :attr:`~deeprelax_ase.prediction.Prediction.info`, the calibrated errors until the finish moves on, and
    ``deeprelax_status``, one of ``"predicted"`` (the atoms are where the model put them, and not converged or not
    checked), ``"converged"`` and ``"not converged"`` (of a finish). Atoms are not wrapped into the cell.

    Attributes:
        prediction: the :class:`~deeprelax_ase.prediction.Prediction`, with uncertainties and timings; None before the
            jump, and after a restart.

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
        finish: class, or name in ``ase.optimize``, of the optimizer that finishes; None for the jump alone.
        finish_kwargs: options of the finishing optimizer, such as ``{"maxstep": 0.1}``.
        corrections: most further jumps, each with the forces known where the last one landed; one that raises the
            energy is taken back. By default 2 where the model has learnt to read the calculator's forces and the cell
            moves, as with ``DeepRelax-M3GNet`` under M3GNet, and none otherwise.
        device: where the network runs: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        graph_backend: what builds the graph, see :class:`~deeprelax_ase.predictor.Predictor`.
        **kwargs: options of ASE's ``Optimizer``, such as ``loginterval``.

    Raises:
        ConstraintError: the atoms carry constraints, or the filter restricts the motion: neither is honoured yet.
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
        device: str = "auto",
        graph_backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        if predictor is not None and model is not None:
            raise ValueError("give either a predictor or a model, not both")
        self.prediction: Prediction | None = None
        self.finish = resolve_finish(finish)
        self._freedom = freedom_of(atoms, relax_cell=relax_cell)
        self._finish_kwargs = dict(finish_kwargs or {})
        self._finisher: Optimizer | None = None
        self._predictor = predictor
        self._predictor_options = {"model": model, "device": device, "graph_backend": graph_backend}
        self._jump: JumpRecord | None = None
        if corrections is not None and (corrections < 0 or corrections != int(corrections)):
            raise ValueError(f"{corrections=} must be a whole number, 0 for none")
        if corrections and not (self._freedom.moves_cell and self.finish):
            raise ValueError(
                f"{corrections=} need a cell that may move, as forces and stress are read together, and a finish, "
                "which looks at what they lead to"
            )
        self._corrections = corrections
        self._correction: Correction | None = None
        self._finishing = False
        self._at_prediction = False
        super().__init__(
            atoms,  # type: ignore[arg-type]
            restart,
            logfile,
            trajectory,
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

    def todict(self) -> dict[str, Any]:
        """Description for trajectory headers."""
        finish = None if self.finish is None else self.finish.__name__
        return {**super().todict(), "relax_cell": self._freedom.moves_cell, "finish": finish}

    def irun(self, fmax: float = 0.05, steps: int = DEFAULT_MAX_STEPS) -> Iterator[bool]:  # type: ignore[override]
        """Relax step by step.

        Args:
            fmax: eV/Å, the largest force, and cell gradient where the cell moves, that counts as converged.
            steps: most steps to take, the jump included.

        Yields:
            whether the atoms are converged, before the first step and after each.
        """
        refuse_constraints(self._freedom.atoms)
        if self._jump is None and steps > 0:
            Crystal.from_atoms(self._freedom.atoms)  # refused before a costly calculator is called
        self.fmax = fmax
        if not self._freedom.has_calculator:
            return self._labelled(self._irun_without_calculator(steps))
        refuse_missing_stress(self._freedom)
        if self.finish is None:
            steps = min(steps, 1 if self._jump is None else 0)
        else:
            self._make_finisher()  # wrong finish_kwargs show before a costly calculator is called
        return self._labelled(super().irun(fmax=fmax, steps=steps))

    def run(self, fmax: float = 0.05, steps: int = DEFAULT_MAX_STEPS) -> bool:  # type: ignore[override]
        """Relax until converged or out of ``steps``; options and result as in :meth:`irun`."""
        converged = False
        for converged in self.irun(fmax=fmax, steps=steps):  # noqa: B007
            pass
        return bool(converged)

    def converged(self, *args: Any, **kwargs: Any) -> bool:
        """Whether the forces, and the stress where the cell moves, satisfy ``fmax``; without a calculator see above."""
        if not self._freedom.has_calculator:
            return self._jump is not None and self._jump.solver_converged
        return bool(super().converged(*args, **kwargs))

    def step(self) -> None:
        """The jump, or one step of the finish."""
        if self._jump is None:
            self._make_jump()
        else:
            if not self._correct():
                self._make_finisher().step()
                self._finishing = True
            self._at_prediction = False
            forget(self._freedom.atoms, ERROR_KEYS)
        self._label(False)  # until the new forces are known

    def call_observers(self) -> None:
        """Call what was attached; ``atoms.info`` is brought up to date first, so that frames hold their own status."""
        self._label(self.fmax is not None and self.converged())
        super().call_observers()

    def read(self) -> None:
        """Take up the jump, and the finish's memory, from the restart file. Called by ASE when the file exists."""
        jump = read_record(self.restart, self._freedom.atoms)  # type: ignore[arg-type]
        if not jump.starts_from(self._freedom.atoms):
            self._jump = jump
            self._freedom.restore_orig_cell(jump.orig_cell)

    def _make_jump(self) -> None:
        atoms, moves_cell = self._freedom.atoms, self._freedom.moves_cell
        refuse_constraints(atoms)
        if self._corrections and not self.predictor.corrects:
            raise ModelError(
                f"{self.predictor.model_name} has not learnt to read forces: leave corrections={self._corrections} out"
            )
        prediction = self.predictor.predict(atoms, relax_cell=moves_cell)
        self.prediction = prediction
        self._jump = JumpRecord(
            numbers=atoms.numbers.copy(),
            positions=atoms.positions.copy(),
            cell=atoms.cell.array.copy(),
            model=prediction.model,
            uncertainty=float(prediction.uncertainty.total),
            solver_converged=bool(prediction.solver_converged),
            orig_cell=self._freedom.orig_cell,
        )
        self._at_prediction = True
        if moves_cell:
            atoms.set_cell(prediction.relaxed.cell)
        atoms.set_positions(prediction.relaxed.positions)
        forget(atoms, INFO_KEYS)  # of an earlier run
        atoms.info.update(prediction.info)
        self._save()

    def _correct(self) -> bool:
        """Jump again, with the forces; whether there was anything to do."""
        jump = self._jump
        if jump is None or self._finishing or jump.memory is not None:
            return False
        if self._correction is None:
            left = self._most_corrections(jump) - jump.corrections
            if left <= 0 and jump.before is None:
                return False
            self._correction = Correction(self._freedom.atoms, self.predictor, left, jump.before)
        moved = self._correction.step()
        made = self._most_corrections(jump) - self._correction.left
        self._jump = replace(jump, corrections=made, before=self._correction.before)
        self._save()
        return moved

    def _most_corrections(self, jump: JumpRecord) -> int:
        if self._corrections is not None or not self._freedom.moves_cell:
            return self._corrections or 0
        of_calculator = jump.model == model_for(self._freedom.atoms.calc)
        return CORRECTIONS if of_calculator and self.predictor.corrects else 0

    def _make_finisher(self) -> Optimizer:
        if self.finish is None:
            raise RuntimeError("finish=None: there is no step after the jump")
        if self._finisher is None:
            finisher = self.finish(self._freedom.target, logfile=None, **self._finish_kwargs)  # type: ignore[arg-type]
            if self._jump is not None and self._jump.memory_fits(self.finish.__name__, self._freedom.orig_cell):
                memory = self._jump.memory
                finisher.load = lambda: memory  # type: ignore[method-assign]
                finisher.read()
            finisher.dump = self._remember  # type: ignore[method-assign]
            self._finisher = finisher
        self._finisher.fmax = self.fmax
        return self._finisher

    def _remember(self, memory: Any = None) -> None:
        """Stands in for the finisher's own ``dump``: one restart file holds all. GPMin, for one, hands out nothing."""
        if memory is not None and self._jump is not None and self.finish is not None and self.restart is not None:
            self._jump = replace(
                self._jump, finish=self.finish.__name__, orig_cell=self._freedom.orig_cell, memory=memory
            )
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
            self._log_prediction()
            self.call_observers()
            yield self.converged()

    def _trajectory_is_empty(self) -> bool:
        if self.trajectory is None:
            return True
        if hasattr(self, "_traj_is_empty"):
            return self._traj_is_empty()
        return len(self.trajectory) == 0  # type: ignore[arg-type]  # an ASE that keeps its trajectory open

    def _log_prediction(self) -> None:
        jump = self._jump
        if jump is not None and self.logfile is not None:
            rest = "" if jump.solver_converged else "; the geometry solver did not come to rest"
            self.logfile.write(
                f"{type(self).__name__}:  {self.nsteps:3d} {time.strftime('%H:%M:%S')} predicted by {jump.model}, "
                f"uncertainty {jump.uncertainty:.3f} Angstrom; no calculator: forces not checked, no finish{rest}\n"
            )

    def _labelled(self, run: Iterator[bool]) -> Iterator[bool]:
        for converged in run:
            self._label(converged)
            yield bool(converged)

    def _label(self, converged: bool) -> None:
        atoms, jump = self._freedom.atoms, self._jump
        if jump is not None:
            atoms.info.update(deeprelax_model=jump.model, deeprelax_uncertainty=jump.uncertainty)
        if converged and self._freedom.has_calculator:
            atoms.info["deeprelax_status"] = CONVERGED
        elif self._at_prediction:
            atoms.info["deeprelax_status"] = PREDICTED
        elif jump is not None and self._freedom.has_calculator:
            atoms.info["deeprelax_status"] = NOT_CONVERGED


class DeepRelaxPositions(DeepRelaxOptimizer):
    """:class:`DeepRelaxOptimizer` that keeps the cell of bare ``Atoms``, exactly.

    For libraries that pass bare ``Atoms`` and mean a fixed cell, and wrap them in a cell filter when it may move.
    """

    def __init__(self, atoms: Atoms | Filter, *args: Any, relax_cell: bool = False, **kwargs: Any) -> None:
        super().__init__(atoms, *args, relax_cell=relax_cell, **kwargs)
