"""Differences between ASE's versions since 3.25: paths, trajectories, convergence, and files that must be closed."""

from __future__ import annotations

import os
from contextlib import closing
from typing import Any

import numpy as np
from ase.optimize.optimize import Optimizer


def plain_path(file: Any) -> Any:
    """``file`` as ASE before 3.26 takes it: a path as text; what is open, ``"-"`` and None stay what they are."""
    return os.fspath(file) if isinstance(file, os.PathLike) else file


def satisfies(optimizer: Optimizer, values: np.ndarray | None) -> bool:
    """Whether the largest row of ``values`` is below the optimizer's ``fmax``.

    ASE asks ``converged()`` up to 3.25, with forces (N, 3) if with anything; ``converged(gradient)`` in 3.26 and 3.27,
    the gradient being flat and in 3.26 of the forces' sign; and ``gradient_converged(gradient)`` from 3.28 on.

    Args:
        optimizer: its ``optimizable`` is asked where there are no ``values``.
        values: (N, 3) or (3 N,) eV/Å, forces or gradient, those of the cell included; None to have them computed.
    """
    if values is None:
        optimizable: Any = optimizer.optimizable
        values = optimizable.get_gradient() if hasattr(optimizable, "get_gradient") else optimizable.get_forces()
    return bool(np.linalg.norm(np.reshape(values, (-1, 3)), axis=1).max() < optimizer.fmax)


def close_along(optimizer: Optimizer, other: Optimizer) -> None:
    """Have ``other`` closed when ``optimizer`` is: ASE before 3.27 opens a file even for ``logfile=None``."""
    optimizer.closelater(closing(other))


def write_log(optimizer: Optimizer, line: str) -> None:
    """Add a line to the optimizer's log, at once: before 3.27 the log is a plain file, which has to be flushed."""
    log: Any = optimizer.logfile
    log.write(line)
    if hasattr(log, "fileno") or hasattr(log, "getvalue"):  # later ASE's own Log warns of flush()
        log.flush()


def trajectory_is_empty(optimizer: Optimizer) -> bool:
    """Whether nothing was written to the optimizer's trajectory, if it has any; before 3.27 that is kept open."""
    if optimizer.trajectory is None:
        return True
    if hasattr(optimizer, "_traj_is_empty"):
        return bool(optimizer._traj_is_empty())
    return len(optimizer.trajectory) == 0  # type: ignore[arg-type]
