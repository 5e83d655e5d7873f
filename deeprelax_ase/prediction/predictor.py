"""The one place that composes the flow: crystals in, predictions out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import DeepRelaxError, ModelError
from deeprelax_ase.geometry import EDGSettings
from deeprelax_ase.graph import BACKENDS, build_graph
from deeprelax_ase.graph.columns import CrystalColumns
from deeprelax_ase.models.card import DEFAULT, one_shot_options
from deeprelax_ase.models.loading import load_model
from deeprelax_ase.models.model import Model
from deeprelax_ase.models.registry import DEFAULT_MODEL
from deeprelax_ase.nn.config import DeepRelaxE3Config
from deeprelax_ase.nn.records import KnownForces
from deeprelax_ase.prediction.admission import Admission, InformedCrystal, known_forces
from deeprelax_ase.prediction.allowed_strain import RelaxCell
from deeprelax_ase.prediction.batching import attempt, attempt_parts, grouped
from deeprelax_ase.prediction.built_graph import BuiltGraph
from deeprelax_ase.prediction.devices import default_atoms_per_batch, device_of, stopwatch
from deeprelax_ase.prediction.doubts import doubts_of
from deeprelax_ase.prediction.expected_errors import (
    calibration_of,
    energies_of,
    energy_law_of,
    expected_errors,
    novelty_of,
    steps_of,
)
from deeprelax_ase.prediction.inference import InferenceSettings, relax
from deeprelax_ase.prediction.predicted_batch import PredictedBatch
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.prediction.symmetry import BatchSymmetry

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import ArrayLike
    from pymatgen.core import Structure

    from deeprelax_ase.nn import DeepRelax, DeepRelaxE3

Admitted = TypeVar("Admitted", Crystal, InformedCrystal)

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Predictor:
    """Predicts relaxed crystals in one shot.

    Args:
        model: name of a shipped model, path of a model card, or a loaded :class:`~deeprelax_ase.models.Model`, whose
            weights are shared where they are on this device and of this type, and else copied.
        device: ``cpu``, ``cuda``, ``cuda:1``, ... or ``auto``: CUDA where there is any.
        dtype: ``float32`` or ``float64``, in which the network computes; the geometry solver always uses float64.
        graph_backend: ``torch`` or ``matgl``, see :func:`deeprelax_ase.graph.build_graph`; both give the same graph.
        keep_symmetry: project the prediction onto the space group of the unrelaxed crystal, as spglib finds it to
            0.001 Å: sites fixed by symmetry do not move, and equal sites stay equal, exactly. Crystals are refused
            where a mask of the strain or constraints break the symmetry. By default an end-to-end network keeps it by
            itself, but for rounding; the paper's network, which does not, is projected where nothing breaks it.
        leave_within_error: leave a crystal as it is that the model would move by less than it expects to be off, where
            its errors are calibrated and its cell may move, see
            :func:`~deeprelax_ase.prediction.unchanged.why_unchanged`.
        solver: settings of the geometry solver of the paper's network; those of the model's card by default.
        one_shot: ``"fast"`` for one recycle of one network, ``"default"`` for what the card says: a preset of
            ``recycles`` and ``members``.
        recycles: how often an end-to-end network predicts, each time from where it predicted before; the preset's
            number by default. One is the fastest, further ones sharpen the result. The paper's network predicts once.
        members: how many of the ensemble's networks are asked, the first ones; those of the preset by default. Fewer
            are faster.
        compile: fuse the networks' kernels with ``torch.compile``: a minute at the start, which pays on a GPU from some
            hundred thousand crystals on.

    Raises:
        ModelError: the model is unknown or damaged, or has no use for ``recycles`` or ``solver``.
        DeviceError: the device is not to be had.
        ValueError: an option is out of its range.
    """

    def __init__(
        self,
        model: str | os.PathLike | Model = DEFAULT_MODEL,
        *,
        device: str | torch.device = "auto",
        dtype: str = "float32",
        graph_backend: str = "torch",
        keep_symmetry: bool | None = None,
        leave_within_error: bool = True,
        solver: EDGSettings | None = None,
        one_shot: str = DEFAULT,
        recycles: int | None = None,
        members: int | None = None,
        compile: bool = False,
    ) -> None:
        if dtype not in _DTYPES:
            raise ValueError(f"Unknown {dtype=}, must be one of {tuple(_DTYPES)}")
        if graph_backend not in BACKENDS:
            raise ValueError(f"Unknown {graph_backend=}, must be one of {BACKENDS}")
        self.device = device_of(device)
        self.dtype = _DTYPES[dtype]
        self.graph_backend = graph_backend
        self.keep_symmetry, self.leave_within_error = keep_symmetry, leave_within_error
        recycles, members = one_shot_options(one_shot, recycles, members)
        loaded = model if isinstance(model, Model) else load_model(model)
        self.settings = InferenceSettings.of(loaded.card, recycles=recycles, solver=solver)
        if members is not None and not 1 <= members <= len(loaded.networks):
            raise ValueError(f"{members=} must be between 1 and {len(loaded.networks)}, the size of the ensemble")
        networks = loaded.networks[:members]
        there = all((p.device, p.dtype) == (self.device, self.dtype) for p in networks.parameters())
        if loaded is model and (compile or not there):  # another predictor may hold it as it is
            networks = deepcopy(networks)
        networks = networks.to(self.device, self.dtype)
        energy = loaded.energy and deepcopy(loaded.energy).to(self.device, self.dtype)
        card = replace(loaded.card, members=len(networks))
        self.model = replace(loaded, card=card, networks=networks, energy=energy)
        if compile:
            for network in networks:
                cast("DeepRelax | DeepRelaxE3", network).compile_parts(dynamic=True)
        self._admission = Admission(card.elements, card.name, bool(keep_symmetry))
        self.novelty, self._energy_law = novelty_of(self.model, self.device), energy_law_of(card)
        whole = len(self.model.networks) == len(loaded.networks)
        self.calibration = calibration_of(self.model.card, self.recycles) if whole else None
        by_itself = isinstance(self.model.config, DeepRelaxE3Config)
        self._projects = not by_itself if keep_symmetry is None else keep_symmetry

    @property
    def model_name(self) -> str:
        """Name of the model."""
        return self.model.card.name

    @property
    def reads_forces(self) -> bool:
        """Whether the model has learnt to read forces, as :meth:`predict_with_forces` needs."""
        return self.model.card.reads_forces

    @property
    def recycles(self) -> int:
        """Number of times that the networks predict. Each time they start from their last prediction."""
        return self.settings.recycles

    def __repr__(self) -> str:
        return f"Predictor({self.model_name!r}, device='{self.device}', dtype={str(self.dtype).split('.')[-1]!r})"

    def predict(
        self,
        structure: Crystal | Atoms | Structure,
        *,
        relax_cell: RelaxCell = None,
        graph: BuiltGraph | None = None,
    ) -> Prediction:
        """The relaxed crystal of one unrelaxed one; ``structure`` is not changed.

        Args:
            structure: ``Crystal``, ASE ``Atoms`` or pymatgen ``Structure``.
            relax_cell: whether the cell moves; if not, it stays exactly as it is. By default it does, unless the
                crystal is a slab. Layers and slabs are strained in their plane only, so that their vacuum stays. Or an
                :class:`~deeprelax_ase.AllowedStrain`, which says how it may move, at no pressure.
            graph: of this very structure, where it was built before, with what was seen in it; it is built anew where
                the model needs another.

        Raises:
            StructureError: the structure cannot be relaxed; the message says how to mend it.
            ConstraintError: its constraints cannot be kept exactly, nor the strain be limited so.
        """
        crystal = self._admission.admit(structure)
        return _or_raise(self._predict([crystal], relax_cell, built=graph)[0])

    def predict_with_forces(
        self,
        structure: Crystal | Atoms | Structure,
        forces: ArrayLike,
        stress: ArrayLike,
        *,
        relax_cell: RelaxCell = None,
    ) -> Prediction:
        """The relaxed crystal, now that the forces in ``structure`` are known: a second jump, of one recycle.

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
        self._refuse_forces()
        informed = InformedCrystal.of(self._admission.admit(structure), forces, stress)
        return _or_raise(self._predict_informed([informed], relax_cell)[0])

    def predict_many(
        self,
        structures: Iterable[Crystal | Atoms | Structure],
        *,
        relax_cell: RelaxCell = None,
        atoms_per_batch: int | None = None,
        bonds: bool = True,
    ) -> Iterator[Prediction | DeepRelaxError]:
        """Predictions of many structures, lazily and in order; a bad structure yields its error instead.

        Args:
            structures: read as they are needed.
            relax_cell: see :meth:`predict`.
            atoms_per_batch: structures are batched up to so many atoms; bounds the memory, not the result. By default
                200 on a CPU, where batches that outgrow its caches take twice the time, and on a GPU 40,000,
                or what fills half of the memory that the process may use.
            bonds: whether each prediction tells the uncertainty of its bonds, which are most of what there is to move.

        Yields:
            a :class:`Prediction`, or the :class:`DeepRelaxError` that :meth:`predict` would raise.
        """
        make = partial(self._predict, relax_cell=relax_cell, bonds=bonds)
        yield from self._stream(make, map(self._admission.admit_or_tell, structures), atoms_per_batch)

    def predict_columns(
        self, crystals: CrystalColumns, *, relax_cell: RelaxCell = None, atoms_per_batch: int | None = None
    ) -> Iterator[Sequence[Prediction | DeepRelaxError]]:
        """:meth:`predict_many` of :func:`~deeprelax_ase.graph.columns.plain` crystals of the model's elements.

        Yields:
            a :class:`~deeprelax_ase.prediction.predicted_batch.PredictedBatch` of each batch, without the
            uncertainty of bonds; an error alone in place of a crystal with which its batch could not be computed.
        """
        make = partial(self._predict, relax_cell=relax_cell, bonds=False)
        for part in crystals.parts(atoms_per_batch or default_atoms_per_batch(self.device)):
            yield from attempt_parts(make, part, self.device)

    def predict_many_with_forces(
        self,
        found: Iterable[tuple[Crystal | Atoms | Structure, ArrayLike, ArrayLike]],
        *,
        relax_cell: RelaxCell = None,
        atoms_per_batch: int | None = None,
    ) -> Iterator[Prediction | DeepRelaxError]:
        """:meth:`predict_with_forces` of many structures, lazily and in order; a bad one yields its error instead.

        Args:
            found: structures, each with its forces and its stress, read as they are needed.
            relax_cell: see :meth:`predict`.
            atoms_per_batch: see :meth:`predict_many`.

        Yields:
            a :class:`Prediction` without the uncertainty of bonds, or the :class:`DeepRelaxError` of
            :meth:`predict_with_forces`.

        Raises:
            ModelError, ValueError: see there.
        """
        self._refuse_forces()
        make = partial(self._predict_informed, relax_cell=relax_cell, bonds=False)
        yield from self._stream(make, map(self._admission.admit_with_forces, found), atoms_per_batch)

    def _stream(
        self,
        make: Callable[[Sequence[Admitted]], PredictedBatch],
        admitted: Iterable[Admitted | DeepRelaxError],
        atoms_per_batch: int | None,
    ) -> Iterator[Prediction | DeepRelaxError]:
        """Yield what ``make`` makes of batches of the admitted ones, and the errors of the others, in order."""
        for batch in grouped(admitted, atoms_per_batch or default_atoms_per_batch(self.device)):
            made = iter(attempt(make, [c for c in batch if not isinstance(c, DeepRelaxError)], self.device))
            yield from (c if isinstance(c, DeepRelaxError) else next(made) for c in batch)

    def _refuse_forces(self) -> None:
        if not self.reads_forces:
            raise ModelError(f"{self.model_name} has not learnt to read forces, so it cannot jump again with them")

    @torch.inference_mode()
    def _predict(
        self,
        crystals: Sequence[Crystal],
        relax_cell: RelaxCell,
        known: KnownForces | None = None,
        *,
        built: BuiltGraph | None = None,
        bonds: bool = True,
    ) -> PredictedBatch:
        timings: dict[str, float] = {}
        timed = partial(stopwatch, timings, device=self.device)
        settings = self.settings if known is None else self.settings._replace(recycles=1)
        with timed("graph"):
            how: dict[str, Any] = {"backend": self.graph_backend, "settings": self.model.config.graph}
            built = None if built is None else built.usable(**how, device=self.device)
            graph = build_graph(crystals, device=self.device, **how) if built is None else built.graph
        with timed("geometry"):
            symmetry = BatchSymmetry.of(crystals) if self._projects else None
        relaxation = relax(
            self.model,
            graph,
            settings,
            dtype=self.dtype,
            relax_cell=relax_cell,
            known=known,
            symmetry=symmetry,
            vectors=None if built is None else built.vectors,
            vacuum=None if built is None else built.vacuum,
            timed=timed,
        )
        knows_slabs = getattr(self.model.config, "reads_cell_freedom", False)
        doubts = doubts_of(crystals, relaxation, knows_slabs=knows_slabs)
        steps = steps_of(graph, relaxation)
        errors = None
        if known is None:
            laws: dict[str, Any] = {"calibration": self.calibration, "novelty": self.novelty}
            errors = expected_errors(crystals, graph, relaxation, doubts, steps, relax_cell=relax_cell, **laws)
        asked = relax_cell if self.keep_symmetry else None
        return PredictedBatch(
            crystals,
            relaxation,
            errors,
            self.model_name,
            {stage: seconds / len(crystals) for stage, seconds in timings.items()},
            doubts,
            steps if self.leave_within_error else None,
            None if self.keep_symmetry or known is not None else energies_of(crystals, relaxation, self._energy_law),
            None if symmetry is None else symmetry.broken_by(asked),
            bonds,
        )

    def _predict_informed(
        self, informed: Sequence[InformedCrystal], relax_cell: RelaxCell, *, bonds: bool = True
    ) -> PredictedBatch:
        known = known_forces(informed, self.device)
        return self._predict([one.crystal for one in informed], relax_cell, known, bonds=bonds)


def _or_raise(result: Prediction | DeepRelaxError) -> Prediction:
    if isinstance(result, DeepRelaxError):
        raise result
    return result
