"""Frames of every kind, and errors that are and are not to be trusted."""

from __future__ import annotations

from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms

from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.io.frame import Frame
from deeprelax_ase.uncertainty.calibration import CalibratedError

SURE = CalibratedError(0.03, 0.08, 0.02, 0.05, ood=False, novelty=0.4, odds_worse=0.02)
UNSURE = CalibratedError(0.03, 0.08, 0.02, 0.05, ood=True, novelty=1.4, odds_worse=0.2)


def good(label: str = "good") -> Frame:
    return Frame(label, bulk("Cu", "fcc", a=3.7, cubic=True))


def helium(label: str = "helium") -> Frame:
    return Frame(label, bulk("He", "fcc", a=4.2))


def molecule(label: str = "molecule") -> Frame:
    return Frame(label, Atoms("Cu2", [[0, 0, 0], [0, 0, 2.2]]))


def unreadable(label: str = "unreadable") -> Frame:
    return Frame(label, None, StructureFileError("cannot\n be read"))


def constrained(label: str = "constrained") -> Frame:
    frame = good(label)
    frame.atoms.set_constraint(FixAtoms([0]))
    return frame


FRAMES = {"good": good, "helium": helium, "molecule": molecule, "unreadable": unreadable, "constrained": constrained}
STATUS = {
    "good": "accepted",
    "helium": "refused",
    "molecule": "refused",
    "unreadable": "failed",
    "constrained": "accepted",
}
