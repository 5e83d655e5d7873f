"""The numerical Euclidean distance geometry solver, section 4.6 of the DeepRelax paper (arXiv:2404.00865).

Finds positions whose distances meet the predicted ones: the cell is given, and the bounded Euclidean distance loss (20)
is minimised over the Cartesian positions of all atoms with Adam, for many crystals at once on CPU or GPU. Crystals do
not influence each other.

Where this goes beyond the paper:

- Adam's second moment is that of the length of an atom's gradient rather than of each coordinate (VectorAdam, Ling et
  al. 2022, arXiv:2205.13599): a rotated crystal gives a rotated solution.
- The kink of the loss at a bound is rounded over a width in proportion to the learning rate. With the bare kink, a
  relative change of 1e-12 of the input moves solutions by up to 1e-2 Å; rounded, by 1e-11 Å, in the worst of 4,000
  cases by 3e-9 Å.
- The learning rate falls to zero, and rest is judged by the balance of the pulls on each atom, not by the size of the
  steps, which vanish with the learning rate wherever the atoms are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from deeprelax_ase.geometry.quantities import RelaxationQuantities
from deeprelax_ase.geometry.terms import (
    PullEvaluator,
    bounded_euclidean_distance_loss,
    distance_bounds,
    distance_terms,
    select_atoms,
)
from deeprelax_ase.graph.crystal_graph import CrystalGraph, affine_positions, crystal_mean, edge_batch, edge_vectors
from deeprelax_ase.graph.shapes import (
    AtomFlags,
    Batch,
    Cells,
    Columns,
    CrystalCounts,
    CrystalFlags,
    PerCrystal,
    Positions,
)

#: Adam's decay rates of the first and second moment, as published.
_BETA1, _BETA2 = 0.9, 0.999

#: Adam's epsilon, in pulls of one violated distance. Atoms pulled by much less than this move in proportion to the
#: pull, so that the rounding errors of a balanced site are not blown up to full steps.
_EPSILON = 5.0

#: The learning rate falls as this power of a half cosine: long enough at its start to carry atoms over an Å, then fast.
_DECAY_POWER = 3.0

#: Width over which the kink of the loss is rounded, in learning rates.
_SOFTNESS_PER_RATE = 0.1

#: The working arrays are cut down to the crystals still moving when these are fewer than this share of them.
_COMPACT_BELOW = 0.75


@dataclass(frozen=True)
class EDGSettings:
    """Settings of the solver.

    Attributes:
        max_steps: steps at most; the learning rate falls to zero over this number.
        learning_rate: Å, Adam's, at the start; no atom moves much further than this in one step.
        bound_scale: half-width of the bounds in Laplace scales, see :func:`~deeprelax_ase.geometry.distance_bounds`.
        softness: Å, final width over which the kink of the loss at each bound is rounded.
        tolerance: an atom is at rest when the net pull on it is at most this; each distance outside its bounds by the
            softness or more pulls with 1.
        check_interval: steps between two checks for rest.
        fix_drift: take the mean displacement of all atoms, relative to being carried along by the cell, out of the
            solution. Distances between atoms do not fix it, displacements of a few atoms hardly do, and relaxations
            are recorded without it.
    """

    max_steps: int = 260
    learning_rate: float = 0.1
    bound_scale: float = 1.0
    softness: float = 1e-3
    tolerance: float = 0.5
    check_interval: int = 10
    fix_drift: bool = True

    def __post_init__(self) -> None:
        for name in ("learning_rate", "softness", "tolerance", "check_interval"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("max_steps", "bound_scale"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


#: The paper's learning rate and bounds; the rest was chosen on 400 crystals, with exact distances and noisy ones.
DEFAULT_EDG_SETTINGS = EDGSettings()


@dataclass(frozen=True, eq=False)
class EDGSolution:
    """Solution for a batch of G crystals with N atoms.

    Attributes:
        positions: (N, 3) float64 Å.
        loss: (G,) Å, the bounded Euclidean distance loss (20) at ``positions``, mean over all distances of a crystal.
        converged: (G,) bool, whether all atoms of the crystal came to rest.
        steps: (G,) int64, steps taken until then; zero where the start already met all bounds.
    """

    positions: Positions
    loss: PerCrystal
    converged: CrystalFlags
    steps: CrystalCounts


def solve_edg(
    graph: CrystalGraph,
    quantities: RelaxationQuantities,
    *,
    start: Positions | None = None,
    settings: EDGSettings = DEFAULT_EDG_SETTINGS,
) -> EDGSolution:
    """Positions that meet the predicted distances and displacements, in the predicted cell.

    The solution of each crystal depends neither on its companions in the batch nor on their number, up to rounding. A
    crystal that is at rest from the start keeps its positions bit by bit. Works in float64 on the device of
    ``quantities``, whatever their type.

    Args:
        graph: G crystals with N atoms.
        quantities: predicted for the edges of ``graph``, without a member axis.
        start: (N, 3) Å, where the atoms start from; by default the anchors.
        settings: see :class:`EDGSettings`.

    Raises:
        ValueError: shapes do not match the graph's.
    """
    _check_shapes(graph, quantities, start)
    quantities = replace(quantities, **{name: t.detach().double() for name, t in vars(quantities).items()})
    graph = graph.to(device=quantities.cell.device, dtype=torch.float64)
    start = quantities.anchors if start is None else start.detach().to(quantities.anchors)
    with torch.inference_mode():  # the fastest dispatch; clones leave it as ordinary tensors
        positions, converged, steps = _descend(graph, quantities, start, settings)
        if settings.fix_drift:
            positions = positions - _drift(graph, quantities.cell, positions, moved=steps > 0)
        loss = _mean_loss(graph, quantities, positions, settings.bound_scale)
    return EDGSolution(positions.clone(), loss.clone(), converged.clone(), steps.clone())


def _descend(
    graph: CrystalGraph, quantities: RelaxationQuantities, start: Positions, settings: EDGSettings
) -> tuple[Positions, CrystalFlags, CrystalCounts]:
    """Positions (N, 3), whether each crystal came to rest, and its steps."""
    evaluate = PullEvaluator(distance_terms(graph, quantities, bound_scale=settings.bound_scale))
    optimizer = _VectorAdam(start.T.clone(memory_format=torch.contiguous_format), settings)
    solution = start.clone()
    atoms = torch.arange(graph.num_atoms, device=start.device)  # those that the working arrays hold
    resting = torch.zeros(graph.num_crystals, dtype=torch.bool, device=start.device)
    steps = torch.full((graph.num_crystals,), settings.max_steps, device=start.device)
    held = moving = graph.num_crystals
    for step in range(settings.max_steps + 1):
        last = step == settings.max_steps
        if last or step % settings.check_interval == 0:
            batch = evaluate.terms.batch
            pull = evaluate(optimizer.positions, settings.softness)
            stopped = ~resting & (_largest(pull, batch, graph.num_crystals) <= settings.tolerance)
            steps[stopped] = step
            finished = ~resting if last else stopped
            resting |= stopped
            count = int(finished.sum())  # waits for the device, once per check
            if count:
                columns = finished[batch].nonzero().squeeze(1)
                solution[atoms[columns]] = optimizer.positions[:, columns].T
                moving -= count
            if moving == 0:
                break
            if moving < _COMPACT_BELOW * held:
                kept = ~resting[batch]
                evaluate = PullEvaluator(select_atoms(evaluate.terms, kept))
                optimizer.select(kept)
                atoms, held = atoms[kept], moving
        optimizer.step(evaluate(optimizer.positions, optimizer.softness))
    return solution, resting, steps


class _VectorAdam:
    """Adam on the positions (3, N), its second moment that of the length of each atom's gradient."""

    def __init__(self, positions: Columns, settings: EDGSettings) -> None:
        self.positions = positions
        self._settings = settings
        self._first = torch.zeros_like(positions)
        self._second = torch.zeros_like(positions[:1])
        self._steps = 0
        self._allocate()

    @property
    def learning_rate(self) -> float:
        """Å, of the coming step."""
        phase = math.pi * (self._steps + 0.5) / self._settings.max_steps
        return self._settings.learning_rate * (0.5 + 0.5 * math.cos(phase)) ** _DECAY_POWER

    @property
    def softness(self) -> float:
        """Å, of the kink of the loss in the coming step."""
        return max(self._settings.softness, _SOFTNESS_PER_RATE * self.learning_rate)

    def step(self, gradient: Columns) -> None:
        rate = self.learning_rate
        self._steps += 1
        first_bias, second_bias = 1 - _BETA1**self._steps, math.sqrt(1 - _BETA2**self._steps)
        self._first.lerp_(gradient, 1 - _BETA1)
        torch.mul(gradient, gradient, out=self._squares)
        torch.mm(self._ones, self._squares, out=self._norms)
        self._second.lerp_(self._norms, 1 - _BETA2)
        torch.sqrt(self._second, out=self._norms).add_(_EPSILON * second_bias)
        self.positions.addcdiv_(self._first, self._norms, value=-rate * second_bias / first_bias)

    def select(self, kept: AtomFlags) -> None:
        """Go on with the atoms ``kept``, (N,) bool."""
        self.positions, self._first, self._second = (t[:, kept] for t in (self.positions, self._first, self._second))
        self._allocate()

    def _allocate(self) -> None:
        self._squares = torch.empty_like(self._first)
        self._norms = torch.empty_like(self._second)
        self._ones = self._first.new_ones(1, 3)


def _largest(pull: Columns, batch: Batch, num_crystals: int) -> PerCrystal:
    """(G,) the largest pull (3, N) on any atom of each crystal; NaN where one is NaN."""
    norms = torch.linalg.vector_norm(pull, dim=0)
    return norms.new_zeros(num_crystals).scatter_reduce_(0, batch, norms, "amax")


def _drift(graph: CrystalGraph, cell: Cells, positions: Positions, *, moved: CrystalFlags) -> Positions:
    """(N, 3) Å, the mean displacement beyond being carried along by the cell, in crystals that ``moved``."""
    displacements = positions - affine_positions(graph, cell)
    return (crystal_mean(displacements, graph.batch, graph.num_crystals) * moved[:, None])[graph.batch]


def _mean_loss(
    graph: CrystalGraph, quantities: RelaxationQuantities, positions: Positions, bound_scale: float
) -> PerCrystal:
    """(G,) Å, eq. (20) divided by the number of distances and displacements."""
    source, destination = graph.edge_index[:, graph.in_cell]
    lengths = torch.linalg.vector_norm(edge_vectors(graph, positions, quantities.cell), dim=1)
    displacements = torch.linalg.vector_norm(positions[source] - quantities.anchors[destination], dim=1)
    bounds = distance_bounds(quantities.distances, quantities.distance_scales, bound_scale=bound_scale)
    pair_bounds = distance_bounds(quantities.displacements, quantities.displacement_scales, bound_scale=bound_scale)
    losses = torch.cat(
        [
            bounded_euclidean_distance_loss(lengths, *bounds),
            bounded_euclidean_distance_loss(displacements, *pair_bounds),
        ]
    )
    crystal = torch.cat([edge_batch(graph), graph.batch[destination]])
    sums = losses.new_zeros(graph.num_crystals).index_add_(0, crystal, losses)
    return sums / torch.bincount(crystal, minlength=graph.num_crystals).clamp_min(1)


def _check_shapes(graph: CrystalGraph, quantities: RelaxationQuantities, start: Positions | None) -> None:
    pairs = int(graph.in_cell.sum())
    expected = {
        "distances": (graph.num_edges,),
        "distance_scales": (graph.num_edges,),
        "displacements": (pairs,),
        "displacement_scales": (pairs,),
        "cell": (graph.num_crystals, 3, 3),
        "anchors": (graph.num_atoms, 3),
    }
    for name, shape in expected.items():
        if getattr(quantities, name).shape != shape:
            raise ValueError(
                f"quantities.{name} has shape {tuple(getattr(quantities, name).shape)}, the graph asks for {shape}. "
                "Predict the quantities for this very graph, and average an ensemble's first (ensemble_mean)."
            )
    if start is not None and start.shape != (graph.num_atoms, 3):
        raise ValueError(f"start has shape {tuple(start.shape)}, the graph has {graph.num_atoms} atoms")
