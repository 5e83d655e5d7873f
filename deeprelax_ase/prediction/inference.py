"""The one inference function: a batch of crystals in, the relaxed ones out, with what tells their errors.

Predictor, labelling, evaluation and benchmarks call :func:`relax`, as does training to measure a network: on the way,
beside the loss, which :func:`relax` does not know, and at the end. It is the one place where layers keep their vacuum,
cells that do not relax are kept, predictions are projected onto space groups, and those that are no crystals are
dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from deeprelax_ase.errors import ModelError
from deeprelax_ase.geometry import EDGSettings, solve_edg
from deeprelax_ase.geometry.contacts import crowded
from deeprelax_ase.geometry.quantities import RelaxationQuantities
from deeprelax_ase.geometry.strain import matrix_product, remove_rotation
from deeprelax_ase.geometry.vacuum import Vacuum, vacuum_of
from deeprelax_ase.graph import CrystalGraph, affine_positions, edge_vectors, neighbor_graph
from deeprelax_ase.models.card import MOST_RECYCLES, ModelCard
from deeprelax_ase.models.model import Model
from deeprelax_ase.nn.config import DeepRelaxE3Config
from deeprelax_ase.nn.deeprelax import DeepRelax
from deeprelax_ase.nn.deeprelax_e3 import DeepRelaxE3, NetworkInput, network_input
from deeprelax_ase.nn.records import KnownForces, Relaxation
from deeprelax_ase.prediction.allowed_strain import RelaxCell
from deeprelax_ase.prediction.cell_freedom import CellFreedom
from deeprelax_ase.prediction.physical import (
    first_flaws,
    flaws_of_contacts,
    flaws_of_freedom,
    flaws_of_vacuum,
    keep_physical,
)
from deeprelax_ase.prediction.symmetry import BatchSymmetry
from deeprelax_ase.uncertainty.calibration import ErrorFeatures
from deeprelax_ase.uncertainty.ensemble import (
    EnsembleUncertainty,
    ensemble_mean,
    ensemble_uncertainty,
    member_mean,
    stack_members,
)
from deeprelax_ase.uncertainty.features import crystal_kinds, error_features, implied_distances

#: ``timed("network")``: a context whose duration counts for that stage: graph, network or geometry.
Timed = Callable[[str], AbstractContextManager[None]]


def untimed(stage: str) -> AbstractContextManager[None]:
    """Measure nothing: the timer where nobody asks for the time."""
    return nullcontext()


@dataclass(frozen=True, eq=False)
class BatchRelaxation:
    """A model's relaxation of G crystals with N atoms, on the device of their graph; geometry in float64.

    Attributes:
        positions: (N, 3) Å.
        cell: (G, 3, 3) Å.
        uncertainty: on the edges of ``graph``.
        graph: the last one that the networks saw.
        features: for calibrated errors; None where the architecture has none.
        members: the last relaxation of each member, along a leading axis; None for the paper's network.
        scalars: (N, F) of the atoms of the unrelaxed crystals, see :func:`atom_scalars`; None for the paper's network.
        energies: (G,) eV/atom of the relaxed crystals, nan where their cells may not move as those of the labels did,
            and (G,) Laplace scales; None for models without a head.
        converged: (G,) bool, whether a geometry solver came to rest; true where none is needed.
        steps: (G,) its steps.
        flaws: (G,) why there is no prediction at all, see :class:`~deeprelax_ase.prediction.physical.Flaw`. The crystal
            is unchanged where it would be nowhere, or have burst.
        vacuum: in the unrelaxed crystals.
        crowded: (G,) bool, the unrelaxed crystals in which atoms are nearer than the model has ever seen them.
        fixed_cell: (G,) bool, whose cells are kept.
    """

    positions: Tensor
    cell: Tensor
    uncertainty: EnsembleUncertainty
    graph: CrystalGraph
    features: ErrorFeatures | None
    members: Relaxation | None
    scalars: Tensor | None
    energies: tuple[Tensor, Tensor] | None
    converged: Tensor
    steps: Tensor
    flaws: Tensor
    vacuum: Vacuum
    crowded: Tensor
    fixed_cell: Tensor


class InferenceSettings(NamedTuple):
    """Settings of the relaxation by a model.

    Attributes:
        recycles: how often an end-to-end network predicts; each time it starts from the mean of what the ensemble
            predicted before. 1 for the paper's network.
        solver: settings of the geometry solver of the paper's network; None for end-to-end networks, which need none.
    """

    recycles: int
    solver: EDGSettings | None

    @classmethod
    def of(
        cls, card: ModelCard, *, recycles: int | None = None, solver: EDGSettings | None = None
    ) -> InferenceSettings:
        """Read the settings of the ``card``; arguments that are given replace them.

        Raises:
            ModelError: the model has no use for what is given, or the card's solver settings are of another version.
            ValueError: fewer than one recycle, or so many that they cannot be meant.
        """
        if not 1 <= (asked := card.recycles if recycles is None else recycles) <= MOST_RECYCLES:
            raise ValueError(f"recycles must be between 1 and {MOST_RECYCLES}, got {asked}")
        if card.architecture != "DeepRelax":
            if solver is not None:
                raise ModelError(f"{card.name} predicts positions, without a geometry solver: leave solver= out")
            return cls(asked, None)
        if recycles not in (None, 1):
            raise ModelError(
                f"{card.name} predicts distances, which a geometry solver turns into positions, once: leave "
                f"{recycles=} out, or take an end-to-end model"
            )
        return cls(1, card_solver(card) if solver is None else solver)


def card_solver(card: ModelCard) -> EDGSettings:
    """The solver settings of a model card."""
    try:
        return EDGSettings(**card.solver)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{card.name}: the card's solver settings are not of this version: {error}") from error


@torch.no_grad()
def relax(
    model: Model,
    graph: CrystalGraph,
    settings: InferenceSettings | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    relax_cell: RelaxCell = None,
    known: KnownForces | None = None,
    symmetry: BatchSymmetry | None = None,
    vectors: Tensor | None = None,
    vacuum: Vacuum | None = None,
    timed: Timed = untimed,
) -> BatchRelaxation:
    """The crystals of ``graph``, relaxed.

    Args:
        model: on the device of the graph.
        graph: the unrelaxed crystals, with the edges that the model expects.
        settings: how; those of the model's card by default.
        dtype: of the model's networks.
        relax_cell: whether cells move; None for all but those of slabs; or how they may. Layers and slabs are strained
            in their plane only, so that their vacuum stays either way.
        known: forces in the unrelaxed crystals, for networks that read them; the first recycle alone sees them.
        symmetry: of the unrelaxed crystals; None for none.
        vectors: (E, 3) Å in float64, along the edges of the graph, where they are known.
        vacuum: of the unrelaxed crystals, likewise.
        timed: takes the time of the stages.
    """
    settings = InferenceSettings.of(model.card) if settings is None else settings
    exact = graph if graph.cell.dtype == torch.float64 else graph.to(dtype=torch.float64)
    with timed("geometry"):
        vectors = edge_vectors(exact) if vectors is None else vectors
        freedom = CellFreedom.of(vacuum_of(exact, vectors) if vacuum is None else vacuum, relax_cell)
        near = crowded(exact, torch.linalg.vector_norm(vectors, dim=1))
    if settings.solver is not None:
        relaxed = _by_distances(model, exact, dtype, timed, freedom=freedom, near=near, solver=settings.solver)
    else:
        options: dict[str, Any] = {
            "freedom": freedom,
            "near": near,
            "recycles": settings.recycles,
            "known": known,
        }
        relaxed = _end_to_end(model, exact, dtype, timed, vectors=vectors, **options)
    with timed("geometry"):
        positions, cell = relaxed.positions, relaxed.cell
        if symmetry is not None:
            positions, cell = symmetry.project(positions, cell, fixed_cell=freedom.fixed)
        positions, cell = freedom.hold(exact.cell, positions, cell, exact.batch)
        collisions = flaws_of_contacts(exact.numbers, positions, cell, exact.batch)
        flaws = first_flaws(flaws_of_freedom(freedom), relaxed.flaws, collisions)
        return replace(relaxed, positions=positions, cell=cell, flaws=flaws)


def _by_distances(
    model: Model,
    exact: CrystalGraph,
    dtype: torch.dtype,
    timed: Timed,
    *,
    freedom: CellFreedom,
    near: Tensor,
    solver: EDGSettings,
) -> BatchRelaxation:
    """The paper's way: predicted distances, made into positions by the Euclidean distance geometry solver."""
    with timed("network"):
        graph = exact.to(dtype=dtype)
        networks = cast("list[DeepRelax]", list(model.networks))
        members = stack_members([_in_allowed_cell(network, graph, freedom) for network in networks])
        uncertainty = ensemble_uncertainty(members, exact)
        quantities = ensemble_mean(members)
        if freedom.restricts:  # exactly, where members agree but for rounding
            quantities = replace(quantities, cell=freedom.permitted(exact.cell, quantities.cell.double()))
    with timed("geometry"):
        solution = solve_edg(exact, quantities, settings=solver)
    positions, cell, flaws = keep_physical(exact, solution.positions, quantities.cell.double())
    flaws = first_flaws(flaws_of_vacuum(freedom.vacuum), flaws)
    return BatchRelaxation(
        positions,
        cell,
        uncertainty,
        exact,
        features=None,
        members=None,
        scalars=None,
        energies=None,
        converged=solution.converged,
        steps=solution.steps,
        flaws=flaws,
        vacuum=freedom.vacuum,
        crowded=near,
        fixed_cell=freedom.fixed,
    )


def _in_allowed_cell(network: DeepRelax, graph: CrystalGraph, freedom: CellFreedom) -> RelaxationQuantities:
    """Predict with the ``network`` in its own cell, or in the nearest one that ``freedom`` permits."""
    if not freedom.restricts:
        return network(graph)
    if freedom.fixes_all:
        return network(graph, cell=graph.cell)
    return network(graph, cell=freedom.permitted(graph.cell, network(graph).cell))


def _end_to_end(
    model: Model,
    exact: CrystalGraph,
    dtype: torch.dtype,
    timed: Timed,
    *,
    vectors: Tensor,
    freedom: CellFreedom,
    near: Tensor,
    recycles: int,
    known: KnownForces | None,
) -> BatchRelaxation:
    """The end-to-end way: predicted displacements and strain, ``recycles`` times over."""
    graph, flaws = exact, flaws_of_vacuum(freedom.vacuum)
    projectors, first = _seen_projectors(model, exact, freedom), None
    for _ in range(recycles - 1):
        with timed("network"):
            members, *_, scalars = _refine(model, graph, vectors, dtype, projectors, known)
            first = (members, scalars) if first is None else first
            positions, cell = _moved(graph, member_mean(members), freedom)
            positions, cell, new = keep_physical(exact, positions, cell)
        flaws, known = first_flaws(flaws, new), None
        with timed("graph"):
            graph = neighbor_graph(graph.numbers, positions, cell, graph.batch, settings=model.config.graph)
            vectors = edge_vectors(graph)
    with timed("network"):
        members, given, scalars = _refine(model, graph, vectors, dtype, projectors, known)
        start, scalars = (members, scalars) if first is None else first
        energies = None
        if (head := model.energy) is not None:
            energy, scale = head(scalars, exact.numbers, exact.batch, exact.num_crystals)
            energies = energy.where(freedom.as_learned, torch.nan), scale
        uncertainty = ensemble_uncertainty(implied_distances(members, graph, given), graph)
    with timed("geometry"):
        positions, cell = _moved(graph, member_mean(members), freedom)
        kept = freedom.fixed
        if not freedom.fixes_all:
            turned, turned_cell = remove_rotation(exact.cell, positions, cell, exact.batch)
            positions = torch.where(kept[exact.batch, None], positions, turned)
            cell = torch.where(kept[:, None, None], cell, turned_cell)
        cell = torch.where(kept[:, None, None], exact.cell, cell)
        positions, cell, new = keep_physical(exact, positions, cell)
    flaws = first_flaws(flaws, new)
    return BatchRelaxation(
        positions,
        cell,
        uncertainty,
        graph,
        features=error_features(members, start, exact, crystal_kinds(exact, freedom.vacuum.directions == 1, kept)),
        members=members,
        scalars=scalars[0],
        energies=energies,
        converged=torch.ones_like(flaws, dtype=torch.bool),
        steps=torch.zeros_like(flaws),
        flaws=flaws,
        vacuum=freedom.vacuum,
        crowded=near,
        fixed_cell=freedom.fixed,
    )


@torch.no_grad()
def atom_scalars(model: Model, graph: CrystalGraph, dtype: torch.dtype = torch.float32) -> Tensor:
    """(N, F) scalars of the atoms of ``graph`` after the first block of the first member, as :func:`relax` has them.

    They depend on the surroundings of each atom, and not on the relaxation of the crystal. Novelty is computed from
    them.
    """
    exact = graph if graph.cell.dtype == torch.float64 else graph.to(dtype=torch.float64)
    vectors = edge_vectors(exact)
    projectors = _seen_projectors(model, exact, CellFreedom.of(vacuum_of(exact, vectors), None))
    given = network_input(exact, model.level, strain_projectors=projectors, vectors=vectors)
    network = cast("DeepRelaxE3", model.networks[0])
    return next(network.stages(given._replace(vectors=given.vectors.to(dtype))))[1]


def _seen_projectors(model: Model, exact: CrystalGraph, freedom: CellFreedom) -> Tensor | None:
    reads = cast("DeepRelaxE3Config", model.config).reads_cell_freedom
    return freedom.seen(exact.cell, reads_layers=reads)


def _refine(
    model: Model,
    graph: CrystalGraph,
    vectors: Tensor,
    dtype: torch.dtype,
    projectors: Tensor | None,
    known: KnownForces | None,
) -> tuple[Relaxation, NetworkInput, list[Tensor]]:
    """Predict with every member: their relaxations, stacked, the exact input, and the scalars after each block."""
    given = network_input(graph, model.level, known, strain_projectors=projectors, vectors=vectors)
    rounded = given._replace(vectors=given.vectors.to(dtype))
    one, *others = cast("list[DeepRelaxE3]", list(model.networks))
    stages = list(one.stages(rounded))
    members = stack_members([stages[-1][0], *(network.refine(rounded)[-1] for network in others)])
    return members, given, [scalars for _, scalars in stages]


def _moved(graph: CrystalGraph, relaxation: Relaxation, freedom: CellFreedom) -> tuple[Tensor, Tensor]:
    """Positions (N, 3) and cell (G, 3, 3) of the crystals of ``graph``, relaxed as far as ``freedom`` lets them."""
    cell = matrix_product(graph.cell, freedom.stretch(relaxation.strain.double()))
    return affine_positions(graph, cell) + relaxation.displacements.double(), cell
