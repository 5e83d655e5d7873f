"""The one place that composes the flow: crystals in, predictions out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from deeprelax_ase.crystal import Crystal, check_elements
from deeprelax_ase.errors import (
    DeepRelaxError,
    DeviceError,
    ModelError,
    UnphysicalPredictionError,
)
from deeprelax_ase.geometry import (
    EDGSettings,
    SymmetryOperations,
    primitive_atoms,
    project,
    site_freedom,
    symmetry_operations,
)
from deeprelax_ase.geometry.quantities import SiteSymmetry
from deeprelax_ase.graph import BACKENDS, CrystalGraph, build_graph
from deeprelax_ase.models.registry import DEFAULT_MODEL, Model, ModelCard, load_model
from deeprelax_ase.nn.records import KnownForces
from deeprelax_ase.prediction.batching import attempt
from deeprelax_ase.prediction.inference import (
    LARGEST_VOLUME_RATIO,
    BatchRelaxation,
    Timed,
    known_forces,
    relax_by_distances,
    relax_end_to_end,
)
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.prediction.unbatching import predictions_of, split_atoms
from deeprelax_ase.uncertainty.calibration import Calibration

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import ArrayLike
    from pymatgen.core import Structure

    from deeprelax_ase.nn import DeepRelax, DeepRelaxE3

#: Bytes that an end-to-end network takes on a GPU for an atom of an inorganic crystal, with its 50 edges or so.
_BYTES_PER_ATOM = 250_000

#: Atoms of a batch on a GPU, beyond which no more crystals are made in a second.
_MOST_ATOMS = 20_000

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Predictor:
    """Predicts relaxed crystals in one shot.

    Args:
        model: name of a shipped model, path of a model card, or a loaded :class:`~deeprelax_ase.models.registry.Model`.
        device: ``cpu``, ``cuda``, ``cuda:1``, ... or ``auto``: CUDA where there is any.
        dtype: ``float32`` or ``float64``, in which the network computes; the geometry solver always uses float64.
        graph_backend: ``torch`` or ``matgl``, see :func:`deeprelax_ase.graph.build_graph`; both give the same graph.
        keep_symmetry: project the prediction onto the space group of the unrelaxed crystal, so that sites fixed by
            symmetry do not move and equal sites stay equal.
        leave_within_error: leave a crystal as it is that the model would move by less than it expects to be off, where
            its errors are calibrated and its cell may move, see :func:`~deeprelax_ase.prediction.record.within_error`.
        find_symmetry: look for the space group of each crystal at all, which takes spglib 1 to 3 ms. Without it nothing
            is projected, and errors are read as if every atom were free to move. An end-to-end network keeps the
            symmetry by itself, but for rounding.
        solver: settings of the geometry solver of the paper's network; those of the model's card by default.
        recycles: how often an end-to-end network looks, each time from what it predicted before; the card's number by
            default. One is the fastest, further ones sharpen the result.
        members: how many of the ensemble's networks are asked, the first ones; all by default. Fewer are faster.
        compile: fuse the networks' kernels with ``torch.compile``: a minute at the start, which pays on a GPU from some
            hundred thousand crystals on.

    Raises:
        ModelError: the model is unknown or damaged.
        DeviceError: the device is not to be had.
    """

    def __init__(
        self,
        model: str | os.PathLike | Model = DEFAULT_MODEL,
        *,
        device: str | torch.device = "auto",
        dtype: str = "float32",
        graph_backend: str = "torch",
        keep_symmetry: bool = True,
        leave_within_error: bool = True,
        find_symmetry: bool = True,
        solver: EDGSettings | None = None,
        recycles: int | None = None,
        members: int | None = None,
        compile: bool = False,
    ) -> None:
        if recycles is not None and recycles < 1:
            raise ValueError(f"passes must be at least 1, got {recycles}")
        if dtype not in _DTYPES:
            raise ValueError(f"Unknown {dtype=}, must be one of {tuple(_DTYPES)}")
        if graph_backend not in BACKENDS:
            raise ValueError(f"Unknown {graph_backend=}, must be one of {BACKENDS}")
        self.device = _device(device)
        self.dtype = _DTYPES[dtype]
        self.graph_backend = graph_backend
        self.keep_symmetry, self.leave_within_error, self.find_symmetry = (
            keep_symmetry,
            leave_within_error,
            find_symmetry,
        )
        loaded = model if isinstance(model, Model) else load_model(model)
        if members is not None and not 1 <= members <= len(loaded.networks):
            raise ValueError(f"{members=} must be between 1 and {len(loaded.networks)}, the size of the ensemble")
        # a copy: another predictor may hold the same model on another device or in another type
        networks = deepcopy(loaded.networks[:members]).to(self.device, self.dtype)
        self.model = Model(replace(loaded.card, members=len(networks)), networks)
        if compile:
            for network in networks:
                cast("DeepRelax | DeepRelaxE3", network).compile_parts(dynamic=True)
        self.graph_settings = self.model.config.graph
        self.solver = _solver_of(self.model.card) if solver is None else solver
        self.recycles = self.model.card.recycles if recycles is None else recycles
        whole = len(self.model.networks) == len(loaded.networks)
        self.calibration = _calibration_of(self.model.card, self.recycles) if whole else None

    @property
    def model_name(self) -> str:
        """Name of the model."""
        return self.model.card.name

    @property
    def reads_forces(self) -> bool:
        """Whether the model has learnt to read forces, as :meth:`correct` needs."""
        return self.model.card.reads_forces

    def __repr__(self) -> str:
        return f"Predictor({self.model_name!r}, device='{self.device}', dtype={str(self.dtype).split('.')[-1]!r})"

    def predict(self, structure: Crystal | Atoms | Structure, *, relax_cell: bool = True) -> Prediction:
        """The relaxed crystal of one unrelaxed one; ``structure`` is not changed.

        Args:
            structure: ``Crystal``, ASE ``Atoms`` or pymatgen ``Structure``.
            relax_cell: if not, the cell stays exactly as it is and only atoms move.

        Raises:
            StructureError: the structure cannot be relaxed; the message says how to mend it.
        """
        crystal = self._admit(structure)
        return _or_raise(self._predict([crystal], relax_cell)[0])

    def correct(
        self,
        structure: Crystal | Atoms | Structure,
        forces: ArrayLike,
        stress: ArrayLike,
        *,
        relax_cell: bool = True,
    ) -> Prediction:
        """The relaxed crystal, now that the forces in ``structure`` are known: a second jump, of one pass.

        Meant for a crystal near its minimum, such as the first jump's, and for the calculator whose minima the model
        predicts. The result carries no calibrated error: the forces there tell more.

        Args:
            structure: see :meth:`predict`.
            forces: (N, 3) eV/Å.
            stress: eV/Å³, (3, 3) or ASE's (6,) in Voigt order.
            relax_cell: see :meth:`predict`.

        Raises:
            ModelError: the model has not learnt to read forces.
            StructureError: the structure cannot be relaxed; the message says how to mend it.
            ValueError: forces or stress are of another shape, or not finite.
        """
        if not self.reads_forces:
            raise ModelError(f"{self.model_name} has not learnt to read forces, so it cannot jump again with them")
        crystal = self._admit(structure)
        known = known_forces(crystal, forces, stress, self.device)
        return _or_raise(self._predict([crystal], relax_cell, known)[0])

    def predict_many(
        self,
        structures: Iterable[Crystal | Atoms | Structure],
        *,
        relax_cell: bool = True,
        atoms_per_batch: int | None = None,
        bonds: bool = True,
    ) -> Iterator[Prediction | DeepRelaxError]:
        """Predictions of many structures, lazily and in order; a bad structure yields its error instead.

        Args:
            structures: read as they are needed.
            relax_cell: see :meth:`predict`.
            atoms_per_batch: structures are batched up to so many atoms; bounds the memory, not the result. By default
                200 on a CPU, where batches that outgrow its caches take twice the time, and on a GPU 20,000,
                or what fills half of the memory that the process may use.
            bonds: whether each prediction tells the uncertainty of its bonds, which are most of what there is to move.

        Yields:
            a :class:`Prediction`, or the :class:`DeepRelaxError` that :meth:`predict` would raise.
        """
        if atoms_per_batch is None:
            atoms_per_batch = default_atoms_per_batch(self.device)
        batch: list[Crystal | DeepRelaxError] = []
        atoms = 0
        for structure in structures:
            try:
                crystal: Crystal | DeepRelaxError = self._admit(structure)
            except DeepRelaxError as error:
                crystal = error
            size = len(crystal) if isinstance(crystal, Crystal) else 0
            if batch and atoms + size > atoms_per_batch:
                yield from self._predict_batch(batch, relax_cell, bonds)
                batch, atoms = [], 0
            batch.append(crystal)
            atoms += size
        yield from self._predict_batch(batch, relax_cell, bonds)

    def _admit(self, structure: Crystal | Atoms | Structure) -> Crystal:
        crystal = Crystal.of(structure)
        check_elements(crystal, self.model.card.elements, self.model_name)
        return crystal

    def _predict_batch(
        self, batch: Sequence[Crystal | DeepRelaxError], relax_cell: bool, bonds: bool
    ) -> list[Prediction | DeepRelaxError]:
        crystals = [c for c in batch if isinstance(c, Crystal)]
        results = iter(attempt(lambda part: self._predict(part, relax_cell, bonds=bonds), crystals, self.device))
        return [next(results) if isinstance(c, Crystal) else c for c in batch]

    @torch.inference_mode()
    def _predict(
        self,
        crystals: Sequence[Crystal],
        relax_cell: bool,
        known: KnownForces | None = None,
        *,
        bonds: bool = True,
    ) -> list[Prediction | DeepRelaxError]:
        timings: dict[str, float] = {}
        timed = partial(_timed, timings, device=self.device)
        with timed("graph"):
            graph = build_graph(
                crystals,
                backend=self.graph_backend,
                settings=self.graph_settings,
                device=self.device,
                dtype=torch.float64,
            )
        with timed("geometry"):
            groups = [self._symmetry(crystal) for crystal in crystals]
            sites = self._sites(crystals, groups)
        relaxation = self._relax(graph, timed, relax_cell, known, sites)
        with timed("geometry"):
            cells = relaxation.cell.cpu().numpy()
            positions = split_atoms(relaxation.positions.cpu().numpy(), crystals)
            geometries = [
                project(crystal, xyz, cell if relax_cell else crystal.cell, group if self.keep_symmetry else None)
                for crystal, xyz, cell, group in zip(crystals, positions, cells, groups, strict=True)
            ]
        share = {stage: seconds / len(crystals) for stage, seconds in timings.items()}
        oxides = np.array([8 in crystal.numbers for crystal in crystals])
        calibration = self.calibration if known is None else None
        errors = calibration.read(relaxation.features, oxides) if calibration and relaxation.features else None
        if errors and not relax_cell:
            errors = [error.with_cell_kept() for error in errors]
        leave = self.leave_within_error and relax_cell  # errors are calibrated for cells that relax too
        made = predictions_of(
            crystals, geometries, relaxation, errors, self.model_name, share, leave_within_error=leave, bonds=bonds
        )
        return [p if sound else _unphysical(p) for p, sound in zip(made, relaxation.physical.tolist(), strict=True)]

    def _relax(
        self, graph: CrystalGraph, timed: Timed, relax_cell: bool, known: KnownForces | None, sites: SiteSymmetry
    ) -> BatchRelaxation:
        if self.model.card.architecture == "DeepRelax":
            return relax_by_distances(self.model, graph, self.dtype, timed, relax_cell=relax_cell, solver=self.solver)
        recycles = self.recycles if known is None else 1
        return relax_end_to_end(
            self.model, graph, self.dtype, timed, relax_cell=relax_cell, recycles=recycles, known=known, sites=sites
        )

    def _sites(self, crystals: Sequence[Crystal], groups: Sequence[SymmetryOperations | None]) -> SiteSymmetry:
        pairs = list(zip(crystals, groups, strict=True))
        freedom = np.concatenate([site_freedom(*pair) for pair in pairs])
        atoms = np.array([primitive_atoms(*pair) for pair in pairs])
        return SiteSymmetry(torch.from_numpy(freedom).to(self.device), torch.from_numpy(atoms).to(self.device))

    def _symmetry(self, crystal: Crystal) -> SymmetryOperations | None:
        """That of the unrelaxed crystal, where it is kept, or tells how far an atom may be off."""
        wanted = self.find_symmetry and (self.keep_symmetry or self.calibration)
        return symmetry_operations(crystal) if wanted else None


def _or_raise(result: Prediction | DeepRelaxError) -> Prediction:
    if isinstance(result, DeepRelaxError):
        raise result
    return result


def _unphysical(prediction: Prediction) -> UnphysicalPredictionError:
    return UnphysicalPredictionError(
        f"{prediction.model} predicts no crystal here: coordinates that are not finite, or a volume beyond "
        f"{LARGEST_VOLUME_RATIO:g} times what it was, or below a {LARGEST_VOLUME_RATIO:g}th. Bring the cell near to a "
        "sensible volume first, or relax this crystal with a calculator."
    )


def _solver_of(card: ModelCard) -> EDGSettings:
    try:
        return EDGSettings(**card.solver)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{card.name}: the card's solver settings are not of this version: {error}") from error


def _calibration_of(card: ModelCard, recycles: int) -> Calibration | None:
    """The card's calibration; None if there is none for so many passes."""
    try:
        calibration = Calibration.from_dict(card.calibration) if card.calibration else None
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{card.name}: the card's calibration is not of this version: {error}") from error
    return calibration if calibration is not None and calibration.recycles == recycles else None


def _device(name: str | torch.device) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(0, device=name).device  # with its index
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(
            f"device {str(name)!r} is not available: {str(error).splitlines()[0]}. Use 'auto', 'cpu', or a torch build "
            "with CUDA on a machine that has it."
        ) from error
    return device


def default_atoms_per_batch(device: torch.device) -> int:
    """Atoms of a batch that suit ``device``, see :meth:`Predictor.predict_many`."""
    if device.type == "cpu":
        return 200
    memory = torch.cuda.get_device_properties(device).total_memory
    with suppress(AttributeError):  # before torch 2.6 it does not tell
        memory = int(memory * torch.cuda.get_per_process_memory_fraction(device))
    return min(max(memory // _BYTES_PER_ATOM // 2, 1), _MOST_ATOMS)


@contextmanager
def _timed(timings: dict[str, float], stage: str, *, device: torch.device) -> Iterator[None]:
    start = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    timings[stage] = timings.get(stage, 0.0) + time.perf_counter() - start
