"""How a network's output becomes relaxed crystals: one function for each architecture, one record for both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry import EDGSettings, solve_edg
from deeprelax_ase.geometry.quantities import RelaxationQuantities, SiteSymmetry
from deeprelax_ase.geometry.strain import remove_rotation
from deeprelax_ase.geometry.vacuum import in_plane_projectors
from deeprelax_ase.graph import CrystalGraph, affine_positions, edge_vectors, fractional_positions, neighbor_graph
from deeprelax_ase.models.registry import Model
from deeprelax_ase.nn.deeprelax_e3 import DeepRelaxE3, moved_vectors, network_input
from deeprelax_ase.nn.heads import matrix_product, symmetric_exponential
from deeprelax_ase.nn.records import KnownForces, Relaxation
from deeprelax_ase.uncertainty.calibration import ErrorFeatures
from deeprelax_ase.uncertainty.ensemble import EnsembleUncertainty, ensemble_mean, ensemble_uncertainty

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Record = TypeVar("Record", Relaxation, RelaxationQuantities)

#: A cell whose volume a model multiplies by more than this, or divides by more, has burst or collapsed.
LARGEST_VOLUME_RATIO = 8.0

#: ``timed("network")``: a context whose duration counts for that stage.
Timed = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True, eq=False)
class BatchRelaxation:
    """What an engine makes of G crystals with N atoms; geometry in float64.

    Attributes:
        positions: (N, 3) Å.
        cell: (G, 3, 3) Å.
        uncertainty: on the edges of ``graph``.
        graph: what the last pass of the network saw.
        features: what to calibrate errors by; None where the architecture has none.
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
    converged: Tensor
    steps: Tensor
    physical: Tensor


def relax_by_distances(
    model: Model, exact: CrystalGraph, dtype: torch.dtype, timed: Timed, *, relax_cell: bool, solver: EDGSettings
) -> BatchRelaxation:
    """The paper's way: predicted distances, made into positions by the Euclidean distance geometry solver.

    Args:
        model: an ensemble of :class:`~deeprelax_ase.nn.DeepRelax`.
        exact: the unrelaxed crystals in float64.
        dtype: in which the networks compute.
        timed: takes the time of the stages ``network`` and ``geometry``.
        relax_cell: if not, the cell stays as it is.
        solver: settings of the solver.
    """
    with timed("network"):
        graph = exact.to(dtype=dtype)
        members = _stacked([network(graph, cell=None if relax_cell else graph.cell) for network in model.networks])
        uncertainty = ensemble_uncertainty(members, exact)
        quantities = ensemble_mean(members)
        if not relax_cell:
            quantities = replace(quantities, cell=exact.cell)
    with timed("geometry"):
        solution = solve_edg(exact, quantities, settings=solver)
    positions, cell, physical = keep_physical(exact, solution.positions, quantities.cell.double())
    return BatchRelaxation(positions, cell, uncertainty, exact, None, solution.converged, solution.steps, physical)


def relax_end_to_end(
    model: Model,
    exact: CrystalGraph,
    dtype: torch.dtype,
    timed: Timed,
    *,
    relax_cell: bool,
    recycles: int,
    known: KnownForces | None = None,
    sites: SiteSymmetry | None = None,
) -> BatchRelaxation:
    """The end-to-end way: predicted displacements and strain, ``recycles`` times over.

    Args:
        model: an ensemble of :class:`~deeprelax_ase.nn.DeepRelaxE3`.
        exact: the unrelaxed crystals in float64.
        dtype: in which the networks compute.
        timed: takes the time of the stages ``graph``, ``network`` and ``geometry``.
        relax_cell: if not, the cell stays as it is. The vacuum between layers stays either way.
        recycles: how often the networks look; each time they start from the mean of what they predicted before.
        known: forces in the unrelaxed crystals, for networks that read them; the first pass alone sees them.
        sites: the symmetry of the unrelaxed crystals; None for none.
    """
    graph = exact
    physical = torch.ones_like(exact.cell[:, 0, 0], dtype=torch.bool)
    with timed("geometry"):
        planes = in_plane_projectors(fractional_positions(exact), exact.cell, exact.batch)
    for _ in range(recycles - 1):
        with timed("network"):
            positions, cell = _moved(graph, _mean(_refine(model, graph, dtype, relax_cell, known)), planes)
            positions, cell, sound = keep_physical(exact, positions, cell)
        physical, known = physical & sound, None
        with timed("graph"):
            graph = neighbor_graph(graph.numbers, positions, cell, graph.batch, settings=model.config.graph)
    with timed("network"):
        members = _refine(model, graph, dtype, relax_cell, known)
        uncertainty = ensemble_uncertainty(implied_distances(members, graph), graph)
    with timed("geometry"):
        positions, cell = _moved(graph, _mean(members), planes)
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
    return BatchRelaxation(positions, cell, uncertainty, graph, features, done, steps, physical)


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


def error_features(members: Relaxation, batch: Tensor, sites: SiteSymmetry) -> ErrorFeatures:
    """Signs of error in what the ``members`` predict in the last pass.

    Args:
        members: their relaxations.
        batch: (N,) the crystal of each atom.
        sites: their symmetry. The network cannot see that a site is fixed; of an error along one or two directions
            alone, the square of its length counts in proportion.
    """
    counts = torch.bincount(batch)
    mean = _mean(members)

    def over_atoms(values: Tensor) -> Tensor:
        return values.new_zeros(len(counts)).index_add(0, batch, values) / counts

    scales = mean.displacement_scales * sites.freedom.sqrt().to(mean.displacement_scales.dtype)
    scatter = (members.displacements - mean.displacements).square().sum(dim=2).mean(dim=0)
    return ErrorFeatures(
        displacement_scale=over_atoms(scales),
        volume_scale=mean.volume_scales,
        shape_scale=mean.shape_scales,
        displacement_spread=over_atoms(scatter).sqrt(),
        strain_spread=(members.strain - mean.strain).square().sum(dim=(2, 3)).mean(dim=0).sqrt(),
        last_displacement=over_atoms(mean.displacements.square().sum(dim=1)).sqrt(),
        last_strain=torch.linalg.matrix_norm(mean.strain),
        atoms=sites.primitive_atoms,
    )


def implied_distances(members: Relaxation, graph: CrystalGraph) -> RelaxationQuantities:
    """The interatomic distances that the ``members`` imply on the edges of ``graph``, each with its scale.

    An error of length b in a random direction counts with b^2 / 3 along a bond; so do both atoms'. A strain counts
    with the square of the bond's length: a ninth of the volume's variance, and 2 / 15 of the shape's.
    """
    given = network_input(graph, 0)
    moved = zip(members.displacements.double(), members.strain.double(), strict=True)
    lengths = torch.stack([torch.linalg.vector_norm(moved_vectors(given, d, s), dim=1) for d, s in moved])
    source, destination = graph.edge_index
    of_atoms = members.displacement_scales.square() / 3
    of_cell = members.volume_scales.square() / 9 + members.shape_scales.square() * 2 / 15
    variances = of_atoms[:, source] + of_atoms[:, destination]
    variances = variances + lengths.square() * of_cell[:, graph.batch[destination]]
    none = lengths[:, :0]
    return RelaxationQuantities(
        distances=lengths,
        distance_scales=variances.sqrt().to(lengths.dtype),
        displacements=none,
        displacement_scales=none,
        cell=graph.cell.expand(len(lengths), -1, -1, -1),
        anchors=graph.positions.expand(len(lengths), -1, -1),
    )


def _refine(
    model: Model, graph: CrystalGraph, dtype: torch.dtype, relax_cell: bool, known: KnownForces | None
) -> Relaxation:
    """What every member predicts, along a leading member axis."""
    given = network_input(graph, model.level, known)
    given = given._replace(vectors=edge_vectors(graph).to(dtype))
    networks = cast("list[DeepRelaxE3]", list(model.networks))
    return _stacked([network.refine(given, keep_cell=not relax_cell)[-1] for network in networks])


def _mean(members: Relaxation) -> Relaxation:
    return Relaxation(**{f.name: getattr(members, f.name).mean(dim=0) for f in fields(Relaxation)})


def _moved(graph: CrystalGraph, relaxation: Relaxation, planes: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (N, 3) and cell (G, 3, 3) of the crystals of ``graph``, relaxed; layers are strained in their plane."""
    strain = matrix_product(matrix_product(planes, relaxation.strain.double()), planes)
    stretch = symmetric_exponential(strain)
    cell = matrix_product(graph.cell, stretch)
    return affine_positions(graph, cell) + relaxation.displacements.double(), cell


def _stacked(members: Sequence[Record]) -> Record:
    """One record of the records of all members, along a leading axis."""
    names = [f.name for f in fields(members[0])]
    return type(members[0])(**{name: torch.stack([getattr(m, name) for m in members]) for name in names})


def known_forces(crystal: Crystal, forces: ArrayLike, stress: ArrayLike, device: torch.device) -> KnownForces:
    """The network's record of them.

    Raises:
        ValueError: they are of another shape, or not finite.
    """
    force, tensor = np.asarray(forces, dtype=float), np.asarray(stress, dtype=float)
    if tensor.shape == (6,):
        tensor = tensor[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    for name, values, shape in (("forces", force, (len(crystal), 3)), ("stress", tensor, (3, 3))):
        if values.shape != shape or not np.isfinite(values).all():
            raise ValueError(f"{name} must be {shape} finite numbers, got an array of shape {values.shape}: {values}")
    virial = crystal.volume * (tensor + tensor.T) / 2
    return KnownForces(
        forces=torch.from_numpy(force).to(device),
        virial=torch.from_numpy(virial)[None].to(device),
        has_forces=torch.ones(1, dtype=torch.bool, device=device),
    )
