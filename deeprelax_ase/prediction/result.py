"""The record of a result: what became of one crystal. Tables, documents, ``atoms.info`` and reports derive from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_type_hints

import numpy as np

from deeprelax_ase import __version__
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import force_calls_of
from deeprelax_ase.io.constraints import constraints_of, constraints_text
from deeprelax_ase.prediction.judgement import Judgement, judge
from deeprelax_ase.prediction.record import Prediction, judged, labelled_atoms
from deeprelax_ase.prediction.status import (
    ACCEPTED,
    CONVERGED,
    FAILED,
    JUMP_REJECTED,
    NOT_CONVERGED,
    REJECTED,
    STATUSES,
    TRUSTED,
    UNKNOWN,
    UNRELAXED,
    JumpDecision,
    info_of,
    values_of,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from ase import Atoms


def _column(meaning: str, default: Any = None) -> Any:
    """A field that has a column in tables."""
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True, eq=False, kw_only=True)
class RelaxationResult:
    """Result for one crystal, whoever relaxed it; None stands for values that are not known.

    A field with a meaning is a column of tables and an item of documents, see :data:`COLUMNS`. ``unchanged``, expected
    errors and ``energy_relaxed`` are known of predictions alone, not of finished crystals.

    Attributes:
        initial: the crystal as it was given.
        relaxed: the relaxed crystal, atoms in the same order; where nothing was predicted, or an uncertain prediction
            was not to be handed out, the given one.
        timings: seconds spent in each stage: graph, network, geometry.
    """

    status: str = _column(f"what became of it: {', '.join(STATUSES)}", ACCEPTED)
    reason: str | None = _column("why the status is not 'accepted', or a remark")
    uncertainty: float | None = _column("Å, how far the jump may be off; it stays after a finish")
    error: float | None = _column("Å, expected error of the coordinates, where it is calibrated")
    error_bound: float | None = _column("Å, bound that this error keeps in nine of ten crystals")
    volume_error: float | None = _column("expected relative error of the volume")
    volume_error_bound: float | None = _column("bound that it keeps in nine of ten crystals")
    energy_relaxed: float | None = _column("eV/atom, predicted energy of the minimum under the potential of the labels")
    energy_relaxed_bound: float | None = _column("bound that the error of this energy keeps in nine of ten crystals")
    energy_relaxed_potential: str | None = _column("name of the potential that this energy is predicted for")
    ood: bool | None = _column("whether the crystal is unlike those that the model knows (out of distribution)")
    novelty: float | None = _column(
        "odds that it is unlike those that the model knows, over what ordinary ones keep; beyond 1 it is"
    )
    odds_worse: float | None = _column("probability that the prediction ends further from the minimum than the start")
    odds_judged: float | None = _column("the same as it is held against a limit: with the margin of the crystal's kind")
    unchanged: bool | None = _column("whether the crystal was left as it is")
    volume_change: float | None = _column("V_relaxed / V_initial - 1")
    jump: str | None = _column("kept, rejected or skipped: what became of the jump under a calculator")
    jump_reason: str | None = _column("why")
    energy: float | None = _column("eV, of the calculator that finished the relaxation, if any did")
    fmax: float | None = _column("eV/Å, largest force at the end under the calculator, without what constraints take")
    forces: Sequence[float] | None = _column("(3 N) eV/Å, of the calculator at the end, on constrained atoms too")
    steps: int | None = _column("steps of the relaxation, the jump included")
    force_calls: int | None = _column("how often the calculator was asked for forces")
    calculator: str | None = _column("name of the calculator that finished, or that judged the jump")
    potential: str | None = _column("name of its weights, with the beginning of their digest where they are not known")
    seconds: float | None = _column("the crystal's share of the time that its batch took")
    model: str | None = _column("name of the model")
    version: str | None = _column("of deeprelax_ase", __version__)
    initial: Crystal | None = None
    relaxed: Crystal | None = None
    timings: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, prediction: Prediction, judgement: Judgement | None = None, *, skip: bool = False) -> RelaxationResult:
        """The result of a ``prediction`` that nothing finishes.

        Args:
            prediction: as the model made it.
            judgement: of it; by default that of the default limits.
            skip: leave the crystal as it was where the prediction is uncertain.
        """
        judgement = judge(prediction) if judgement is None else judgement
        left = bool(prediction.unchanged) or (skip and judgement.uncertain)
        return cls(
            unchanged=left,
            relaxed=(prediction.initial if left else prediction.relaxed).as_given,
            volume_change=0.0 if left else prediction.volume_change,
            **judged(prediction, judgement),
            **_of_the_jump(prediction),
        )

    @classmethod
    def finished(
        cls,
        initial: Crystal | None = None,
        relaxed: Crystal | None = None,
        *,
        converged: bool,
        at_prediction: bool = False,
        alone: bool = False,
        prediction: Prediction | None = None,
        judgement: Judgement | None = None,
        decision: JumpDecision | None = None,
        **known: Any,
    ) -> RelaxationResult:
        """The result of a relaxation that began with the jump of a ``prediction``, or needed none.

        Args:
            initial: as it was given; None where the result is told of atoms alone, as is ``relaxed``.
            relaxed: the crystal at the end.
            converged: whether it converged under a calculator.
            at_prediction: whether nothing has moved on from the prediction, so that it is to be judged.
            alone: whether the jump was all that was to be done: unless it is rejected, the prediction is judged.
            prediction: None where the start was converged already, and after a restart.
            judgement: of the prediction.
            decision: about the jump.
            **known: other fields: model, energy, fmax, forces, steps, force_calls, calculator, potential, reason.
        """
        values: dict[str, Any] = {"status": NOT_CONVERGED}
        values |= {} if prediction is None else _of_the_jump(prediction)
        if decision is not None:
            values |= {"jump": decision.outcome, "jump_reason": decision.reason}
        rejected = decision is not None and decision.outcome == REJECTED
        if converged:
            values["status"] = CONVERGED
        elif judgement is not None and (at_prediction or (alone and not rejected)):
            values |= judged(prediction, judgement)
        elif alone and decision is not None and rejected:
            values |= {"status": JUMP_REJECTED, "reason": decision.reason}
        change = None if initial is None or relaxed is None else _volume_change(initial, relaxed)
        values |= {"initial": initial, "relaxed": relaxed, "volume_change": change}
        return cls(**{**values, **known})

    @classmethod
    def unrelaxed(
        cls,
        reason: Exception | str,
        initial: Crystal | None = None,
        *,
        model: str | None = None,
        status: str | None = None,
        force_calls: int | None = None,
    ) -> RelaxationResult:
        """The result of a crystal that is refused, or that failed.

        Args:
            reason: the error, or what it says.
            initial: the crystal as it was given; None where it could not be read.
            model: name of the model.
            status: "refused" or "failed"; by default what :func:`~deeprelax_ase.prediction.judgement.judge` says of an
                error, and "failed" of a text.
            force_calls: of a calculator until then; by default those that the error tells of.
        """
        judgement = judge(reason) if isinstance(reason, Exception) else Judgement(FAILED, " ".join(reason.split()))
        given = None if initial is None else initial.as_given
        return cls(
            status=status or judgement.status,
            reason=judgement.reason,
            initial=given,
            relaxed=given,
            model=model,
            force_calls=force_calls_of(reason) if force_calls is None else force_calls,
        )

    @classmethod
    def from_columns(cls, row: Mapping[str, Any], *, initial: Crystal | None = None) -> RelaxationResult:
        """The inverse of :meth:`columns`; other keys are passed over."""
        values: dict[str, Any] = {name: row.get(name) for name in COLUMNS}
        numbers, positions, cell, pbc, held = (values.pop(name) for name in GEOMETRY)
        relaxed = None
        if numbers is not None and len(numbers):
            relaxed = Crystal(numbers, positions, cell, True if pbc is None else pbc, constraints_of(held))
        return cls(**values, initial=initial, relaxed=relaxed)

    @classmethod
    def from_atoms(cls, atoms: Atoms, *, initial: Crystal | None = None) -> RelaxationResult:
        """Read the ``info`` of ``atoms`` into a result, the inverse of :meth:`to_atoms`; the crystal is not checked."""
        values = {"status": UNKNOWN, **values_of(atoms.info)}
        relaxed = Crystal(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
        if initial is not None and values["status"] not in UNRELAXED:
            values["volume_change"] = _volume_change(initial, relaxed)
        values["version"] = None
        return cls(**values, initial=initial, relaxed=relaxed)

    @property
    def decision(self) -> JumpDecision | None:
        """The decision about the jump; None where none was judged."""
        return None if self.jump is None else JumpDecision(self.jump, self.jump_reason or "")

    @property
    def ok(self) -> bool:
        """Whether the crystal is relaxed, as far as can be known: accepted, unchanged or converged."""
        return self.status in TRUSTED

    @property
    def info(self) -> dict[str, Any]:
        """Entries for the ``info`` of the relaxed atoms."""
        return info_of({name: getattr(self, name) for name in SCALARS if name != "forces"})

    def columns(self) -> dict[str, Any]:
        """A row of a table, see :data:`COLUMNS`; the geometry as flat arrays."""
        geometry = dict.fromkeys(GEOMETRY) if self.relaxed is None else geometry_of(self.relaxed)
        row = geometry | {name: getattr(self, name) for name in SCALARS}
        return {name: row[name] for name in COLUMNS}

    def to_atoms(self, template: Atoms | None = None) -> Atoms:
        """The relaxed crystal as ASE ``Atoms``, with :attr:`info` in theirs.

        Args:
            template: copied for everything but positions and cell: tags, magnetic moments, constraints, arrays, info.

        Raises:
            ValueError: there is no crystal.
        """
        if self.relaxed is None:
            raise ValueError(f"the result holds no crystal: {self.reason}")
        return labelled_atoms(self.relaxed, self.info, template)


def _volume_change(initial: Crystal, relaxed: Crystal) -> float | None:
    """V_relaxed / V_initial - 1; None for slabs whose cell has no vector out of the plane."""
    return relaxed.volume / initial.volume - 1 if initial.volume and relaxed.volume else None


def _of_the_jump(prediction: Prediction) -> dict[str, Any]:
    """Return the fields that stay true of a ``prediction`` wherever a finish goes from it."""
    return {
        "initial": prediction.initial.as_given,
        "model": prediction.model,
        "uncertainty": float(prediction.uncertainty.total),
        "seconds": sum(prediction.timings.values()),
        "timings": prediction.timings,
    }


class Column(NamedTuple):
    """A column of tables, and an item of documents.

    Attributes:
        type: of its values: str, float, bool, int, or an array's ``list[float]``.
        meaning: one line, with the unit first.
    """

    type: Any
    meaning: str


def _columns() -> dict[str, Column]:
    hints = get_type_hints(RelaxationResult, localns={"Crystal": Crystal})
    scalars = {
        f.name: Column((get_args(hints[f.name]) or (hints[f.name],))[0], f.metadata["meaning"])
        for f in fields(RelaxationResult)
        if "meaning" in f.metadata
    }
    first = {name: scalars.pop(name) for name in ("status", "reason")}
    geometry = {
        "numbers": Column(list[np.uint8], "(N) atomic numbers"),
        "positions": Column(list[float], "(3 N) Å, Cartesian positions, atom by atom"),
        "cell": Column(list[float], "(9) Å, lattice vectors, one after the other"),
        "pbc": Column(list[bool], "(3) in which directions it repeats; null where in all"),
        "constraints": Column(str, "of its atoms, as JSON in ASE's form; null where there are none"),
    }
    return first | geometry | scalars


#: The columns of a crystal's geometry.
GEOMETRY = ("numbers", "positions", "cell", "pbc", "constraints")

#: Columns of a result in tables and documents, by name, in their order.
COLUMNS = _columns()

#: Columns that are fields of the record too.
SCALARS = tuple(name for name in COLUMNS if name not in GEOMETRY)


def geometry_of(crystal: Crystal) -> dict[str, Any]:
    """The values of :data:`GEOMETRY` for ``crystal``, as flat arrays and text.

    Raises:
        ConstraintError: it has constraints that cannot be kept.
    """
    periodic = None if crystal.pbc.all() else crystal.pbc
    values = (crystal.numbers, crystal.positions.ravel(), crystal.cell.ravel(), periodic)
    return dict(zip(GEOMETRY, (*values, constraints_text(crystal.constraints)), strict=True))


def schema() -> pa.Schema:
    """The Arrow schema of :meth:`RelaxationResult.columns`."""
    import pyarrow as pa

    simple = {str: pa.string(), float: pa.float64(), bool: pa.bool_(), int: pa.int64(), np.uint8: pa.uint8()}

    def arrow(kind: Any) -> pa.DataType:
        return pa.list_(simple[get_args(kind)[0]]) if get_args(kind) else simple[kind]

    return pa.schema([pa.field(name, arrow(column.type)) for name, column in COLUMNS.items()])
