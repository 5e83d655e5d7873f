"""A batch that was relaxed: as columns, and taken apart into one record per crystal where somebody wants that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple, cast, overload

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.geometry.contacts import Contact, closest_contacts
from deeprelax_ase.graph.columns import CrystalColumns
from deeprelax_ase.prediction.constrained import constrained
from deeprelax_ase.prediction.inference import BatchRelaxation
from deeprelax_ase.prediction.physical import Flaw, flaw_error
from deeprelax_ase.prediction.record import Prediction, Uncertainty
from deeprelax_ase.prediction.unchanged import why_unchanged
from deeprelax_ase.uncertainty.calibration import CalibratedError, ErrorFeatures
from deeprelax_ase.uncertainty.ensemble import UncertaintyParts
from deeprelax_ase.uncertainty.relaxed_energy import RelaxedEnergy


class Total(NamedTuple):
    """The uncertainty of a crystal as a whole, in Å."""

    total: float


class Facts(NamedTuple):
    """Facts of a prediction that :func:`~deeprelax_ase.prediction.judgement.judge` reads, see there."""

    model: str
    error: CalibratedError | None
    uncertainty: Total
    solver_converged: bool
    unchanged: str
    doubt: str


@dataclass(frozen=True, eq=False)
class PredictedBatch(Sequence[Prediction | DeepRelaxError]):
    """Predictions of G crystals with N atoms: a sequence of the record, or the error, of each.

    Attributes:
        crystals: the unrelaxed ones.
        relaxation: of them.
        errors: expected, of each; None where they are not calibrated.
        model: name of the model.
        timings: seconds of each stage for a crystal.
        doubts: reason to doubt each by its geometry; empty where there is none.
        steps: (G,) Å, by which crystals are moved; None where none is left as it is for a short one.
        energies: of each relaxed crystal; None for models that tell none.
        broken: error of each crystal whose symmetry the asked strain breaks; None where it does not.
        bonds: whether records tell the uncertainty of bonds.
    """

    crystals: Sequence[Crystal]
    relaxation: BatchRelaxation
    errors: Sequence[CalibratedError] | None
    model: str
    timings: dict[str, float]
    doubts: Sequence[str]
    steps: np.ndarray | None
    energies: Sequence[RelaxedEnergy | None] | None = None
    broken: Sequence[DeepRelaxError | None] | None = None
    bonds: bool = True

    def __len__(self) -> int:
        return len(self.crystals)

    @overload
    def __getitem__(self, index: int) -> Prediction | DeepRelaxError: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prediction | DeepRelaxError]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[g] for g in range(len(self))[index]]
        g = range(len(self))[index]
        if self.broken is not None and (error := self.broken[g]) is not None:
            return error
        made = self._record(g)
        return flaw_error(self.flaws[g], made, self._contacts.get(g)) if self.flaws[g] else constrained(made)

    def __iter__(self) -> Iterator[Prediction | DeepRelaxError]:
        return (self[g] for g in range(len(self)))

    def fails(self) -> np.ndarray:
        """(G,) bool, of which crystals there is no prediction but an error."""
        broken = [False] * len(self) if self.broken is None else [error is not None for error in self.broken]
        return np.array(broken, dtype=bool) | (np.array(self.flaws) != 0)

    def facts(self) -> list[Facts]:
        """Return the facts that each prediction is judged by."""
        errors: Sequence[CalibratedError | None] = self.errors or [None] * len(self)
        rows = zip(errors, map(Total, self.total.tolist()), self.converged, self.unchanged, self.doubts, strict=True)
        return [Facts(self.model, *row) for row in rows]

    @cached_property
    def initial_cells(self) -> np.ndarray:
        """(G, 3, 3) Å."""
        if isinstance(self.crystals, CrystalColumns):
            return self.crystals.cells
        return np.stack([crystal.cell for crystal in self.crystals])

    @cached_property
    def positions(self) -> np.ndarray:
        """(N, 3) Å, predicted, whether or not the crystal is left as it is."""
        return self.relaxation.positions.cpu().numpy()

    @cached_property
    def cells(self) -> np.ndarray:
        """(G, 3, 3) Å, likewise."""
        return self.relaxation.cell.cpu().numpy()

    @cached_property
    def unchanged(self) -> list[str]:
        """The reason to leave each crystal as it is; empty where there is none."""
        if self.errors is None or self.steps is None:
            return [""] * len(self)
        return why_unchanged(self.initial_cells, self.cells, self.errors, self.steps)

    @cached_property
    def total(self) -> np.ndarray:
        """(G,) Å, uncertainty in total."""
        return self._roots[0]

    @cached_property
    def flaws(self) -> list[int]:
        """Of each, see :class:`~deeprelax_ase.prediction.physical.Flaw`."""
        return self.relaxation.flaws.tolist()

    @cached_property
    def converged(self) -> list[bool]:
        """Whether the solver came to rest, of each."""
        return self.relaxation.converged.tolist()

    def _record(self, g: int) -> Prediction:
        crystal, atoms = self.crystals[g], slice(self._starts[g], self._starts[g + 1])
        relaxed = crystal if self.unchanged[g] else crystal.with_geometry(self.positions[atoms], self.cells[g])
        total, aleatoric, epistemic = (float(root[g]) for root in self._roots)
        bonds = self._bonds[g] if self.bonds else _NO_BONDS
        return Prediction(
            initial=crystal,
            relaxed=relaxed,
            uncertainty=Uncertainty(total, aleatoric, epistemic, self._per_atom[atoms], *bonds),
            model=self.model,
            solver_converged=self.converged[g],
            solver_steps=self._solver_steps[g],
            timings=dict(self.timings),
            energy=None if self.energies is None else self.energies[g],
            features=None if self._features is None else self._features[g],
            error=None if self.errors is None else self.errors[g],
            unchanged=self.unchanged[g],
            doubt=self.doubts[g],
        )

    @cached_property
    def _starts(self) -> list[int]:
        if isinstance(self.crystals, CrystalColumns):
            return self.crystals.starts.tolist()
        return [0, *accumulate(len(crystal) for crystal in self.crystals)]

    @cached_property
    def _contacts(self) -> dict[int, tuple[Contact, Contact]]:
        """The closest ones of each crystal that collides, predicted and as it was, all found together."""
        places = [g for g, flaw in enumerate(self.flaws) if flaw == Flaw.COLLISION]
        pairs = [(made.relaxed, made.initial) for made in map(self._record, places)]
        found = (closest_contacts(crystals) for crystals in zip(*pairs, strict=True))
        return dict(zip(places, zip(*found, strict=True), strict=True))

    @cached_property
    def _per_atom(self) -> np.ndarray:
        return _roots(self.relaxation.uncertainty.atoms)[0]

    @cached_property
    def _bonds(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Uncertainties (E,) in Å of the edges of each crystal, and the edges (E, 5) themselves."""
        graph = self.relaxation.graph
        counts = np.bincount(graph.batch[graph.edge_index[1]].cpu().numpy(), minlength=len(self))
        cuts = np.cumsum(counts)[:-1]
        source, destination = graph.edge_index.cpu().numpy()
        here = np.repeat(self._starts[:-1], counts)
        edges = np.column_stack([destination - here, source - here, graph.cell_offsets.cpu().numpy()])
        roots = _roots(self.relaxation.uncertainty.distances)[0]
        return list(zip(np.split(roots, cuts), np.split(edges, cuts), strict=True))

    @cached_property
    def _roots(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return _roots(self.relaxation.uncertainty.crystals)

    @cached_property
    def _solver_steps(self) -> list[int]:
        return self.relaxation.steps.tolist()

    @cached_property
    def _features(self) -> list[ErrorFeatures] | None:
        """Split by crystal, a column at a time: each number fetched from a GPU makes it wait."""
        if (features := self.relaxation.features) is None:
            return None
        columns = [np.asarray(getattr(features, f.name).tolist(), dtype=float).tolist() for f in fields(features)]
        return [ErrorFeatures(*values) for values in zip(*columns, strict=True)]


#: In place of the bonds, where nobody asks for them.
_NO_BONDS = np.zeros(0), np.zeros((0, 5), dtype=np.int64)


def _roots(parts: UncertaintyParts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Total, aleatoric and epistemic uncertainty as square roots, in Å."""
    roots = (part.sqrt().double().cpu().numpy() for part in (parts.total, parts.aleatoric, parts.epistemic))
    return cast("tuple[np.ndarray, np.ndarray, np.ndarray]", tuple(roots))
