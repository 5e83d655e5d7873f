"""DFT calculations of a benchmark: counted one by one, and kept in a file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes, kptdensity2monkhorstpack
from files import write_json
from gpaw import GPAW

UNRELAXED, PREDICTED, JUMP, UNRELAXED_FAST, JUMP_FAST = (
    "unrelaxed",
    "predicted",
    "jump",
    "unrelaxed, fast",
    "jump, fast",
)
#: Index of a crystal, one of these five, and the model that it depends on, if any.
Task = tuple[int, str, str | None]


@dataclass(frozen=True)
class Run:
    """DFT calls for one crystal: a relaxation from ``unrelaxed`` or with the ``jump``, or the ``predicted`` one.

    Attributes:
        model: whose prediction; None for ``unrelaxed``.
        energies: eV/atom, of each call.
        gradients: eV/Å, of each call: the largest force on an atom, or row of the virial over the number of atoms.
        seconds: CPU time on one thread, the network's included.
        error: what was raised, if anything was.
    """

    crystal: int
    kind: str
    model: str | None
    formula: str
    energies: list[float]
    gradients: list[float]
    converged: bool
    seconds: float
    error: str | None = None

    @property
    def key(self) -> Task:
        return self.crystal, self.kind, self.model

    @property
    def calls(self) -> int:
        return len(self.energies)


class CountedDFT(Calculator):
    """PBE in GPAW. ``energies`` and ``gradients`` grow by one with each call, see :class:`Run`.

    Args:
        mesh: k-points along each reciprocal lattice vector; Γ is one of them.
        ecut: eV, cutoff of the plane waves.
    """

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def __init__(self, mesh: Sequence[int], ecut: float) -> None:
        super().__init__()
        self.gpaw = GPAW(
            mode={"name": "pw", "ecut": ecut},
            xc="PBE",
            kpts={"size": tuple(mesh), "gamma": True},
            occupations={"name": "fermi-dirac", "width": 0.05},
            txt=None,
        )
        self.energies: list[float] = []
        self.gradients: list[float] = []

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        single = self.atoms.copy()
        single.calc = self.gpaw  # which goes on from the wave functions of the geometry before
        self.results = {
            "energy": single.get_potential_energy(),
            "free_energy": single.get_potential_energy(force_consistent=True),
            "forces": single.get_forces(),
            "stress": single.get_stress(),
        }
        virial = single.get_volume() * single.get_stress(voigt=False) / len(single)
        self.energies.append(float(self.results["energy"]) / len(single))
        self.gradients.append(float(np.linalg.norm([*single.get_forces(), *virial], axis=1).max()))


def measure(task: Task, unrelaxed: Atoms, work: Callable[[Atoms], bool], *, ecut: float, density: float) -> Run:
    """Do ``work`` on a copy of the ``unrelaxed`` crystal under DFT; it returns whether the atoms converged."""
    atoms = unrelaxed.copy()
    calculator = CountedDFT(kptdensity2monkhorstpack(unrelaxed, density, even=False), ecut)
    atoms.calc = calculator
    start, converged, raised = time.process_time(), False, None
    try:
        converged = work(atoms)
    except Exception as error:  # of a crystal where self-consistency, or the network, fails
        raised = f"{type(error).__name__}: {error}"
    seconds = time.process_time() - start
    formula = unrelaxed.symbols.formula.format("metal")
    return Run(*task, formula, calculator.energies, calculator.gradients, converged, seconds, raised)


class Cache:
    """Runs that are done, in a file if there is one."""

    def __init__(self, file: Path | None, settings: dict[str, Any]) -> None:
        self.file, self.settings = file, settings
        self.runs: dict[Task, Run] = {}
        if file is None or not file.exists():
            return
        stored = json.loads(file.read_text(encoding="utf-8"))
        if stored["settings"] != settings:
            raise ValueError(f"{file} holds runs with {stored['settings']}, not with {settings}; name another --cache")
        self.runs = {run.key: run for run in (Run(**stored_run) for stored_run in stored["runs"])}

    def add(self, run: Run) -> None:
        self.runs[run.key] = run
        if self.file is not None:
            write_json(self.file, {"settings": self.settings, "runs": [asdict(run) for run in self.runs.values()]})
