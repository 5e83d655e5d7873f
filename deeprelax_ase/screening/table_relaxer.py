"""A table of crystals relaxed: what every engine of a screening calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from deeprelax_ase.calculators.registry import calculator_of, get_batched
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import DeepRelaxError, force_calls_of, is_of_disk
from deeprelax_ase.prediction.allowed_strain import without_pressure
from deeprelax_ase.prediction.judgement import FINISH, RAISE, SKIP, is_refusal, judge
from deeprelax_ase.prediction.predicted_batch import PredictedBatch
from deeprelax_ase.prediction.rattle import rattled_crystal, unrattled
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.prediction.result import RelaxationResult, schema
from deeprelax_ase.prediction.status import FAILED, REFUSED, UNCERTAIN
from deeprelax_ase.screening.columns import in_order, plain_crystals, result_rows
from deeprelax_ase.screening.options import NONE, RelaxOptions
from deeprelax_ase.screening.rows import OUTPUT, crystals_of

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

    from deeprelax_ase.calculators.batched import BatchedPotential
    from deeprelax_ase.graph.columns import CrystalColumns
    from deeprelax_ase.optimizers.restart import RestartFolder
    from deeprelax_ase.prediction.predictor import Predictor

_NAMES = ["index", "id", "source"]


class TableRelaxer:
    """Relaxes tables; holds the model, and the calculator if one is to finish.

    Args:
        options: how.
        predictor: made of the options by default.

    Attributes:
        seconds: spent on the last table's predictions, by stage: graph, network, geometry.

    Raises:
        ValueError: an uncertain prediction is to be an error, and tables have rows; or the finish is unknown.
        ModelError: errors are to be limited, and the model's are not calibrated; also as
            :class:`~deeprelax_ase.Predictor`.
        DeviceError: see there.
        CalculatorError: the one that is to finish cannot be made.
    """

    def __init__(self, options: RelaxOptions, predictor: Predictor | None = None) -> None:
        if options.on_uncertain == RAISE:
            raise ValueError(f"on_uncertain={RAISE!r} would end all with one crystal; rows are marked instead: 'keep'")
        self.options = options
        self._calculator: Calculator | None = None
        self._potential: BatchedPotential | None = None  # where crystals are finished together
        self._restart: RestartFolder | None = None
        calculator = None if options.calculator == NONE else self._prepare_finish()  # wrong names show before the work
        self.predictor = predictor or options.predictor(calculator)
        options.limits().check(self.predictor.model_name, calibrated=self.predictor.calibration is not None)
        self.seconds = Counter[str]()

    def _prepare_finish(self) -> Calculator:
        """The calculator; what finishes is imported here, as it costs each process half a second."""
        from deeprelax_ase.optimizers.batched.finish import pays_in_batches
        from deeprelax_ase.optimizers.finish import resolve_finish
        from deeprelax_ase.optimizers.restart import RestartFolder

        options, potential = self.options, self._make_potential()
        calculator = calculator_of(potential)
        if options.restart is not None:
            self._restart = RestartFolder(options.restart)
        if options.finish != NONE:
            resolve_finish(options.finish)
        if pays_in_batches(potential, options.finish) and self._restart is None:
            self._potential = potential
        else:
            self._calculator = calculator
        return calculator

    def __call__(self, table: pa.Table) -> pa.Table:
        """A table of :data:`~deeprelax_ase.screening.rows.OUTPUT`: a row for each of ``table``, in order.

        A crystal that cannot be relaxed is a row that says why; nothing is raised for it.
        """
        if self.options.calculator != NONE or self.options.rattle:
            return self._row_by_row(table)
        chosen, crystals = plain_crystals(table, sorted(self.predictor.model.card.elements))
        if not len(crystals):
            return self._row_by_row(table)
        done = _beside(table.select(_NAMES).take(chosen), self._in_columns(crystals))
        others = np.delete(np.arange(len(table)), chosen)
        if not len(others):
            return done
        seconds = self.seconds
        rest = self._row_by_row(table.take(others))
        self.seconds += seconds
        return in_order([done, rest], [chosen, others])

    def _in_columns(self, crystals: CrystalColumns) -> pa.Table:
        """Rows of the results of plain crystals that nothing finishes."""
        options, parts = self.options, []
        self.seconds = Counter()
        for made in self.predictor.predict_columns(
            crystals, relax_cell=without_pressure(options.relax_cell), atoms_per_batch=options.atoms_per_batch
        ):
            if isinstance(made, PredictedBatch):
                parts.append(result_rows(made, options.limits(), skip=options.on_uncertain == SKIP))
                self.seconds.update({stage: len(made) * spent for stage, spent in made.timings.items()})
            else:
                place = sum(map(len, parts))
                results = [self._result(one, crystals[place + n]) for n, one in enumerate(made)]
                parts.append(pa.Table.from_pylist([one.columns() for one in results], schema=schema()))
        return pa.concat_tables(parts)

    def _result(self, made: Prediction | DeepRelaxError, crystal: Crystal) -> RelaxationResult:
        """The result of a prediction, or of the error in its place, before anything is finished."""
        if isinstance(made, DeepRelaxError):
            return RelaxationResult.unrelaxed(made, crystal, model=self.predictor.model_name)
        self.seconds.update(made.timings)
        judgement = judge(made, self.options.limits())
        return RelaxationResult.of(made, judgement, skip=self.options.on_uncertain == SKIP)

    def _row_by_row(self, table: pa.Table) -> pa.Table:
        given = list(zip(crystals_of(table), table.column("error").to_pylist(), strict=True))
        made = iter(self.relax([crystal for crystal, error in given if crystal is not None and not error]))
        rows = table.select(_NAMES).to_pylist()
        refused = table.column("refused").to_pylist()
        for row, (crystal, error), is_refused in zip(rows, given, refused, strict=True):
            if error or crystal is None:
                status = REFUSED if is_refused else FAILED
                result = RelaxationResult.unrelaxed(error or "the row holds no structure", crystal, status=status)
            else:
                result = next(made)
            row |= result.columns()
        return pa.Table.from_pylist(rows, schema=OUTPUT)

    def relax(self, crystals: Sequence[Crystal]) -> list[RelaxationResult]:
        """The result of each crystal, in order; nothing is raised for one."""
        self.seconds = Counter()
        options = self.options
        made = self.predictor.predict_many(
            [rattled_crystal(crystal, options.rattle, options.seed) for crystal in crystals],
            relax_cell=without_pressure(options.relax_cell),
            atoms_per_batch=options.atoms_per_batch,
            bonds=False,
        )
        results: list[RelaxationResult] = []
        finishing: dict[int, Prediction] = {}
        for place, (crystal, prediction) in enumerate(zip(crystals, made, strict=True)):
            result = self._result(prediction, crystal)
            if isinstance(prediction, DeepRelaxError):
                results.append(result)
                continue
            results.append(unrattled(result, crystal))
            uncertain = result.status == UNCERTAIN
            if options.finishes_all or (uncertain and options.on_uncertain == FINISH):
                finishing[place] = prediction
        for place, finished in zip(finishing, self._finished(list(finishing.values())), strict=True):
            if isinstance(finished, Exception):
                results[place] = self._unfinished(results[place], finished, crystals[place])
            else:
                results[place] = unrattled(finished, crystals[place])
        if self._restart is not None:
            self._restart.clear()
        return results

    def _unfinished(self, result: RelaxationResult, error: Exception, crystal: Crystal | None) -> RelaxationResult:
        """The result of a crystal with this ``result`` before, on which the calculator failed."""
        options, why, calls = self.options, judge(error).reason, force_calls_of(error)
        if options.finishes_all and is_refusal(error):
            return RelaxationResult.unrelaxed(error, crystal, model=result.model)
        if options.finishes_all:
            told = f"{options.calculator} failed: {why}"
            return RelaxationResult.unrelaxed(told, crystal, model=result.model, force_calls=calls)
        told = f"{result.reason}; {options.calculator} failed, so it stays as predicted: {why}"
        return replace(result, reason=told, force_calls=calls)

    def _finished(self, predictions: list[Prediction]) -> Iterator[RelaxationResult | Exception]:
        """Finish predictions under the calculator, the jumps included: together, where it has a batched form."""
        if not predictions:
            return
        from deeprelax_ase.optimizers.batched.finish import finish_in_batches
        from deeprelax_ase.optimizers.one_crystal import finish_atoms

        how = self.options.finishing()
        given = [(prediction.initial.as_given.to_atoms(), prediction) for prediction in predictions]
        if self._potential is not None:
            for made in finish_in_batches(given, self.predictor, self._potential, **how):
                yield made if isinstance(made, Exception) else made[0]
            return
        for atoms, prediction in given:
            try:
                calculator = self._make_calculator()
                held: dict[str, Any] = {"prediction": prediction, "restart": self._restart}
                yield finish_atoms(atoms, self.predictor, calculator, **held, **how)[0]
            except Exception as error:  # whatever calculators raise
                if is_of_disk(error):
                    raise
                self._calculator = None  # in whatever state it is
                yield error

    def _make_calculator(self) -> Calculator:
        if self._calculator is None:
            self._calculator = calculator_of(self._make_potential())
        return self._calculator

    def _make_potential(self) -> BatchedPotential:
        return get_batched(self.options.calculator, device=self.options.device)


def _beside(names: pa.Table, results: pa.Table) -> pa.Table:
    """Rows of :data:`~deeprelax_ase.screening.rows.OUTPUT`: the names and the results of crystals."""
    return pa.Table.from_arrays([*names.columns, *results.columns], schema=OUTPUT)
