"""The :class:`CheckedAtoms` of an optimizer: their crystal, graph and vacuum, once as long as they stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from ase import Atoms

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import DeepRelaxError

if TYPE_CHECKING:
    import torch

    from deeprelax_ase.geometry.vacuum import Vacuum
    from deeprelax_ase.prediction.built_graph import BuiltGraph


class CheckedAtoms:
    """``atoms`` with their crystal, and where somebody asks, its graph and vacuum.

    These are made anew once the atoms have moved, or are others.

    Args:
        atoms: the caller's, which may change at any time.

    Attributes:
        atoms: the same.
    """

    def __init__(self, atoms: Atoms) -> None:
        self.atoms = atoms
        self._seen: list[object] = []
        self._crystal: Crystal | None = None
        self._graph: BuiltGraph | None = None
        self._vacuum: Vacuum | None = None

    def crystal(self) -> Crystal:
        """The crystal that the model sees, checked.

        Raises:
            StructureError: they are no crystal, layer or slab.
        """
        self._forget_if_changed()
        if self._crystal is None:
            self._crystal = _dense_at_most(Crystal.from_atoms(self.atoms))
        return self._crystal

    def graph(self) -> BuiltGraph:
        """The graph of the crystal, and the vacuum in it.

        Raises:
            StructureError: there is no crystal; or atoms are on top of each other, or alone.
        """
        crystal = self.crystal()
        if self._graph is None:
            from deeprelax_ase.prediction.built_graph import BuiltGraph  # here, as it loads torch

            self._graph = BuiltGraph.of(crystal)
        return self._graph

    def vacuum(self) -> Vacuum:
        """The vacuum in the crystal.

        Raises:
            StructureError: see :meth:`graph`.
        """
        self._forget_if_changed()
        if self._vacuum is None:
            self._vacuum = self.graph().vacuum
        return self._vacuum

    @property
    def known_graph(self) -> BuiltGraph | None:
        """The graph, if it was asked for where the atoms are now."""
        self._forget_if_changed()
        return self._graph

    def forget(self) -> None:
        """Let go of the crystal and its graph, which takes room."""
        self._crystal = self._graph = self._vacuum = None

    def _forget_if_changed(self) -> None:
        atoms = self.atoms
        now: list[object] = [a.tobytes() for a in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)]
        now.append(repr(atoms.info.get("occupancy")))  # it may tell that they are no crystal
        now.append(repr([(type(held), vars(held)) for held in atoms.constraints]))
        if self._seen != now:
            self._seen = now
            self.forget()


def look_together(many: Sequence[CheckedAtoms], device: torch.device) -> None:
    """Find the vacuum in all of them in batches on ``device``: a tenth of the time that they take one by one, or less.

    What is no crystal is left out, and says so to whoever asks it.
    """
    from deeprelax_ase.prediction.batching import attempt, grouped
    from deeprelax_ase.prediction.built_graph import vacua_of
    from deeprelax_ase.prediction.devices import default_atoms_per_batch

    sound = []
    for checked in many:
        try:
            sound.append((checked, checked.crystal()))
        except Exception:  # whatever is in such atoms
            continue
    waiting = iter(sound)
    look = partial(vacua_of, device=device)
    for batch in grouped((crystal for _, crystal in sound), default_atoms_per_batch(device)):
        for found in attempt(look, [crystal for crystal in batch if isinstance(crystal, Crystal)], device):
            checked, _ = next(waiting)
            if not isinstance(found, DeepRelaxError):
                checked._vacuum = found


def _dense_at_most(crystal: Crystal) -> Crystal:
    """``crystal``, unless its atoms must overlap: a calculator would list their neighbours without end."""
    import torch

    from deeprelax_ase.graph.checks import MIN_VOLUME, check_density

    if crystal.volume < 2 * MIN_VOLUME * len(crystal):  # tensors of one crystal take longer than all else here
        check_density(torch.tensor(crystal.cell)[None], torch.zeros(len(crystal), dtype=torch.long))
    return crystal
