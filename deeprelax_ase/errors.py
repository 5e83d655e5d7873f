"""Exceptions of deeprelax_ase.

Every exception about a structure derives from :class:`StructureError`, which is a ``ValueError``; its message says what
is wrong with the input and how to mend it. Nothing of the caller's is changed before an exception is raised.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TypeGuard


class DeepRelaxError(Exception):
    """Base class of all exceptions that deeprelax_ase raises on purpose."""


class StructureError(DeepRelaxError, ValueError):
    """The structure cannot be relaxed as it stands."""


class EmptyStructureError(StructureError):
    """The structure holds no atoms."""


class MissingCellError(StructureError):
    """The structure has no periodic cell: a molecule, or a crystal whose cell was lost."""


class VacuumError(StructureError):
    """There is vacuum in two or three directions: a wire or a molecule, which no model here has learnt to relax."""


class SingularCellError(StructureError):
    """The lattice vectors are linearly dependent: the cell has no volume."""


class NonFiniteError(StructureError):
    """Positions or cell hold NaN or infinite numbers."""


class CoordinateRangeError(StructureError):
    """Positions or lattice vectors are so long that distances between atoms are lost to rounding."""


class OverlappingAtomsError(StructureError):
    """Two atoms, or an atom and its own periodic image, sit on top of each other."""


class IsolatedAtomError(StructureError):
    """An atom has no neighbour within the cutoff: a molecule in a box, or a cell far too large."""


class UnsupportedElementError(StructureError):
    """The structure holds an element that the model was not trained on."""


class DisorderedStructureError(StructureError):
    """A site is shared by several elements or partly empty."""


class UnphysicalPredictionError(StructureError):
    """The model predicts no crystal for the structure: NaN, atoms that collide, or a cell that bursts."""


class OversizeError(StructureError):
    """The structure alone needs more memory than the device has."""


class StructureFileError(StructureError):
    """A structure file cannot be read."""


class BrokenStructureError(StructureError):
    """The structure made another library fail: it cannot be read, or the prediction of it cannot be made."""


class SourceError(DeepRelaxError, OSError):
    """The source to read is away, or the system does not let it be read: no fault of a structure."""

    def __str__(self) -> str:
        return self.strerror or super().__str__()


class ConstraintError(DeepRelaxError, ValueError):
    """The atoms carry a constraint or filter that the jump cannot honour."""


class UncertainPredictionError(DeepRelaxError, ValueError):
    """The model expects its prediction to be too far off, and no calculator can check it."""


class ModelError(DeepRelaxError, ValueError):
    """A model is unknown, or its files are missing, damaged or of another format."""


class CalculatorError(DeepRelaxError, ValueError):
    """A finishing calculator is unknown or cannot be made here."""


class BackendError(DeepRelaxError, ImportError):
    """A graph backend was asked for that is not available in this environment."""


class OutputError(DeepRelaxError, ValueError):
    """The results cannot be written there, or not in that format."""


class WorkerError(DeepRelaxError, RuntimeError):
    """Processes that are to share the work die before they see any."""


class DeviceError(DeepRelaxError, ValueError):
    """A device was asked for that this machine, or this build of torch, does not have."""


def is_of_disk(error: BaseException) -> TypeGuard[OSError]:
    """Whether ``error`` is of a disk that is full or read-only: no crystal's fault, and the next would end so too."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def note_force_calls(error: Exception, calls: int) -> Exception:
    """``error``, which tells from now on how many ``calls`` of a calculator it has cost."""
    with contextlib.suppress(AttributeError):  # some classes take no attributes
        error.force_calls = calls  # type: ignore[attr-defined]
    return error


def force_calls_of(error: object) -> int | None:
    """The calls of a calculator that an ``error`` has cost, as :func:`note_force_calls` has it; None if untold."""
    return getattr(error, "force_calls", None)
