"""The one inference function: a batch of crystals in, the relaxed ones out, with what tells their errors.

Predictor, training, labelling, evaluation and benchmarks call :func:`relax`. It is the one place where layers keep
their vacuum, cells that do not relax are kept, predictions are projected onto space groups, and those that are no
crystals are dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch
from torch import Tensor

from deeprelax_ase.errors import ModelError
from deeprelax_ase.geometry import EDGSettings, solve_edg
from deeprelax_ase.geometry.quantities import SiteSymmetry
from deeprelax_ase.geometry.strain import matrix_product, remove_rotation, symmetric_exponential
from deeprelax_ase.geometry.vacuum import in_plane_projectors, project_strain
from deeprelax_ase.graph import CrystalGraph, affine_positions, fractional_positions, neighbor_graph
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.model import Model
from deeprelax_ase.nn.deeprelax_e3 import DeepRelaxE3, NetworkInput, network_input
from deeprelax_ase.nn.e3_config import DeepRelaxE3Config
from deeprelax_ase.nn.records import KnownForces, Relaxation
from deeprelax_ase.prediction.symmetry import BatchSymmetry
from deeprelax_ase.uncertainty.calibration import ErrorFeatures
from deeprelax_ase.uncertainty.ensemble import (
    EnsembleUncertainty,
    ensemble_mean,
    ensemble_uncertainty,
    member_mean,
    stack_members,
)
from deeprelax_ase.uncertainty.features import error_features, implied_distances

#: A cell whose volume a model multiplies by more than this, or divides by more, has burst or collapsed.
LARGEST_VOLUME_RATIO = 8.0

#: ``timed("network")``: a context whose duration counts for that stage: graph, network or geometry.
Timed = Callable[[str], AbstractContextManager[None]]


def untimed(stage: str) -> AbstractContextManager[None]:
    """Where nobody asks for the time."""
    return nullcontext()


@dataclass(frozen=True, eq=False)
class BatchRelaxation:
    """What a model makes of G crystals with N atoms, on the device of their graph; geometry in float64.

    Attributes:
        positions: (N, 3) Å.
        cell: (G, 3, 3) Å.
        uncertainty: on the edges of ``graph``.
        graph: what the networks saw last.
        features: what to calibrate errors by; None where the architecture has none.
        members: the last relaxation of each member, along a leading axis; None for the paper's network.
        converged: (G,) bool, whether a geometry solver came to rest; true where none is needed.
        steps: (G,) its steps.
        physical: (G,) bool, whether there is a prediction at all, see :func:`keep_physical`; the crystal is unchanged
            where there is none.
    """

    positions: Tensor
    cell: Tensor
    uncertainty: EnsembleUncertainty
    graph: CrystalGraph
    features: ErrorFeatures | None
    members: Relaxation | None
    converged: Tensor
    steps: Tensor
    physical: Tensor


class InferenceSettings(NamedTuple):
    """How a model relaxes.

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
        """Those of the ``card``, but for what is given.

        Raises:
            ModelError: the model has no use for what is given, or the card's solver settings are of another version.
            ValueError: fewer than one recycle.
        """
        if recycles is not None and recycles < 1:
            raise ValueError(f"recycles must be at least 1, got {recycles}")
        if card.architecture != "DeepRelax":
            if solver is not None:
                raise ModelError(f"{card.name} predicts positions, without a geometry solver: leave solver= out")
            return cls(card.recycles if recycles is None else recycles, None)
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
    relax_cell: bool = True,
    known: KnownForces | None = None,
    symmetry: BatchSymmetry | None = None,
    timed: Timed = untimed,
) -> BatchRelaxation:
    """The crystals of ``graph``, relaxed.

    Args:
        model: on the device of the graph.
        graph: the unrelaxed crystals, with the edges that the model expects.
        settings: how; those of the model's card by default.
        dtype: of the model's networks.
        relax_cell: if not, cells stay as they are. The vacuum between layers stays either way.
        known: forces in the unrelaxed crystals, for networks that read them; the first recycle alone sees them.
        symmetry: of the unrelaxed crystals; None for none.
        timed: takes the time of the stages.
    """
    settings = InferenceSettings.of(model.card) if settings is None else settings
    exact = graph if graph.cell.dtype == torch.float64 else graph.to(dtype=torch.float64)
    if settings.solver is not None:
        relaxed = _by_distances(model, exact, dtype, timed, relax_cell=relax_cell, solver=settings.solver)
    else:
        with timed("geometry"):
            sites = None if symmetry is None else symmetry.sites(exact.cell.device)
        relaxed = _end_to_end(
            model, exact, dtype, timed, relax_cell=relax_cell, recycles=settings.recycles, known=known, sites=sites
        )
    if symmetry is None:
        return relaxed
    with timed("geometry"):
        positions, cell = symmetry.project(relaxed.positions, relaxed.cell, relax_cell=relax_cell)
        return replace(relaxed, positions=positions, cell=cell)


def _by_distances(
    model: Model, exact: CrystalGraph, dtype: torch.dtype, timed: Timed, *, relax_cell: bool, solver: EDGSettings
) -> BatchRelaxation:
    """The paper's way: predicted distances, made into positions by the Euclidean distance geometry solver."""
    with timed("network"):
        graph = exact.to(dtype=dtype)
        members = stack_members([network(graph, cell=None if relax_cell else graph.cell) for network in model.networks])
        uncertainty = ensemble_uncertainty(members, exact)
        quantities = ensemble_mean(members)
        if not relax_cell:
            quantities = replace(quantities, cell=exact.cell)
    with timed("geometry"):
        solution = solve_edg(exact, quantities, settings=solver)
    positions, cell, physical = keep_physical(exact, solution.positions, quantities.cell.double())
    return BatchRelaxation(
        positions, cell, uncertainty, exact, None, None, solution.converged, solution.steps, physical
    )


def _end_to_end(
    model: Model,
    exact: CrystalGraph,
    dtype: torch.dtype,
    timed: Timed,
    *,
    relax_cell: bool,
    recycles: int,
    known: KnownForces | None,
    sites: SiteSymmetry | None,
) -> BatchRelaxation:
    """The end-to-end way: predicted displacements and strain, ``recycles`` times over."""
    graph = exact
    physical = torch.ones_like(exact.cell[:, 0, 0], dtype=torch.bool)
    with timed("geometry"):
        planes = in_plane_projectors(fractional_positions(exact), exact.cell, exact.batch)
        projectors = _strain_projectors(model, planes, relax_cell=relax_cell)
    for _ in range(recycles - 1):
        with timed("network"):
            members, _ = _refine(model, graph, dtype, projectors, known)
            positions, cell = _moved(graph, member_mean(members), planes)
            positions, cell, sound = keep_physical(exact, positions, cell)
        physical, known = physical & sound, None
        with timed("graph"):
            graph = neighbor_graph(graph.numbers, positions, cell, graph.batch, settings=model.config.graph)
    with timed("network"):
        members, given = _refine(model, graph, dtype, projectors, known)
        uncertainty = ensemble_uncertainty(implied_distances(members, graph, given), graph)
    with timed("geometry"):
        positions, cell = _moved(graph, member_mean(members), planes)
        if relax_cell:
            positions, cell = remove_rotation(exact.cell, positions, cell, exact.batch)
        else:
            cell = exact.cell
        positions, cell, sound = keep_physical(exact, positions, cell)
    done, physical = torch.ones_like(physical), physical & sound
    if sites is None:
        sites = SiteSymmetry(torch.ones_like(positions[:, 0]), torch.bincount(exact.batch))
    features = error_features(members, exact.batch, sites)
    steps = torch.zeros_like(done, dtype=torch.long)
    return BatchRelaxation(positions, cell, uncertainty, graph, features, members, done, steps, physical)


def keep_physical(start: CrystalGraph, positions: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The crystals where they are given, or where they were if that is nowhere, so that one spoils no other's batch.

    Args:
        start: the unrelaxed crystals.
        positions: (N, 3) Å.
        cell: (G, 3, 3) Å.

    Returns:
        Positions and cell, and (G,) bool: whether they are finite, and the volume is within
        :data:`LARGEST_VOLUME_RATIO` of what it was.
    """
    ratio = torch.linalg.det(cell) / torch.linalg.det(start.cell)  # NaN where the cell holds any
    lost = (~torch.isfinite(positions).all(dim=1)).to(cell.dtype)
    sound = (ratio > 1 / LARGEST_VOLUME_RATIO) & (ratio < LARGEST_VOLUME_RATIO)
    sound &= torch.zeros_like(ratio).index_add(0, start.batch, lost) == 0
    kept = torch.where(sound[start.batch, None], positions, start.positions)
    return kept, torch.where(sound[:, None, None], cell, start.cell), sound


def _strain_projectors(model: Model, planes: Tensor, *, relax_cell: bool) -> Tensor | None:
    """Onto the directions in which the networks may strain cells; None for all of them.

    A network that does not read how many they are has learnt to strain layers across their plane too: its blocks go on
    seeing that, and the prediction alone is projected onto the ``planes`` (G, 3, 3).
    """
    if not relax_cell:
        return torch.zeros_like(planes)
    return planes if cast("DeepRelaxE3Config", model.config).reads_cell_freedom else None


def _refine(
    model: Model, graph: CrystalGraph, dtype: torch.dtype, projectors: Tensor | None, known: KnownForces | None
) -> tuple[Relaxation, NetworkInput]:
    """What every member predicts, along a leading member axis, and what they read, with exact edge vectors."""
    given = network_input(graph, model.level, known, strain_projectors=projectors)
    rounded = given._replace(vectors=given.vectors.to(dtype))
    networks = cast("list[DeepRelaxE3]", list(model.networks))
    return stack_members([network.refine(rounded)[-1] for network in networks]), given


def _moved(graph: CrystalGraph, relaxation: Relaxation, planes: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (N, 3) and cell (G, 3, 3) of the crystals of ``graph``, relaxed; layers are strained in their plane."""
    stretch = symmetric_exponential(project_strain(relaxation.strain.double(), planes))
    cell = matrix_product(graph.cell, stretch)
    return affine_positions(graph, cell) + relaxation.displacements.double(), cell
