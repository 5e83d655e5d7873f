"""The card of a model: what a user must know before trusting it, and what inference needs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from deeprelax_ase.errors import ModelError

#: Recycles at the most: a slip of the pen, such as 1e9, is not to keep a machine busy for years. From the 16th on,
#: predictions (of rattled SrTiO3 and NaCl) change by less than 0.00001 Å.
MOST_RECYCLES = 64


@dataclass(frozen=True)
class ModelCard:
    """Facts about a model that a user must know before trusting it.

    Attributes:
        name: of the model; also the stem of its files.
        description: one sentence.
        level_of_theory: of the relaxed crystals that it was trained on.
        training_data: description of the training data.
        split: how training, validation and test crystals were told apart.
        elements: atomic numbers of the training set.
        members: size of the ensemble: so many of the networks in the file of weights, the first ones.
        parameters: of one member.
        config: the network, see :class:`~deeprelax_ase.nn.DeepRelaxConfig` or
            :class:`~deeprelax_ase.nn.DeepRelaxE3Config`.
        architecture: name of the network, see :data:`~deeprelax_ase.nn.ARCHITECTURES`.
        level: the model's level of theory, where the network knows several.
        recycles: how often an end-to-end network predicts, each time from where it predicted before.
        reads_forces: whether the network has learnt to read forces at this level of theory, to jump again with them.
        weights: file of weights beside the card, where it is not called after the card.
        calibration: turns predicted scales into expected errors, by the number of recycles that it holds for, see
            :mod:`deeprelax_ase.uncertainty.calibration`.
        novelty: statistics that tell how unlike a crystal is to those of the training set, see
            :mod:`deeprelax_ase.uncertainty.novelty`: its file beside the card, its digest, what it was fitted to.
        energy: head for the energy of the relaxed crystal, see :mod:`deeprelax_ase.uncertainty.relaxed_energy`: its
            file beside the card, its digest, that of the weights whose features it reads, the potential, factors of the
            bounds, what they were fitted to.
        solver: settings of the geometry solver that were chosen on the validation split; of the paper's network only.
        metrics: measured with these very weights, by name; nested by test set.
        training: settings, seeds, time and hardware of the training.
        commit: of the code that trained it.
        licence: of the weights.
        limits: known failures.
        sha256: of the weights file.
    """

    name: str
    description: str
    level_of_theory: str
    training_data: str
    split: str
    elements: list[int]
    members: int
    parameters: int
    config: dict[str, Any]
    sha256: str
    architecture: str = "DeepRelax"
    level: str = ""
    recycles: int = 1
    reads_forces: bool = False
    weights: str = ""
    calibration: dict[str, Any] = field(default_factory=dict)
    novelty: dict[str, Any] = field(default_factory=dict)
    energy: dict[str, Any] = field(default_factory=dict)
    solver: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    commit: str = ""
    licence: str = "MIT"
    limits: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, file: Path) -> ModelCard:
        """The card in ``file``.

        Raises:
            ModelError: the file is absent, or is no model card of this version.
        """
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            known = {f.name for f in fields(cls)}
            if unknown := set(values) - known:
                raise TypeError(f"unknown fields {sorted(unknown)}")
            card = cls(**values)
            card._check_kinds()
            return card
        except OSError as error:
            raise ModelError(f"no model card {file}: {error.strerror}") from error
        except (ValueError, TypeError, RecursionError) as error:
            raise ModelError(f"{file} is not a model card of this version of deeprelax_ase: {error}") from error

    def _check_kinds(self) -> None:
        """Raises TypeError or ValueError: cards come from anywhere, and their values decide what is computed."""
        for f in fields(self):
            value, kind = getattr(self, f.name), str(f.type).partition("[")[0]
            if type(value).__name__ != kind:
                raise TypeError(f"{f.name} is a {type(value).__name__}, not a {kind}")
        if not all(type(z) is int and 1 <= z <= 118 for z in self.elements):
            raise ValueError("elements are not atomic numbers")
        if "/" in self.weights or "\\" in self.weights or self.weights in (".", ".."):
            raise ValueError(f"the weights {self.weights!r} do not lie beside the card")

    def write(self, file: Path) -> None:
        """Write the card to ``file``."""
        file.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


#: The model as its card has it; or one recycle of one network.
DEFAULT, FAST = ONE_SHOT = ("default", "fast")


def one_shot_options(
    one_shot: str, recycles: int | None = None, members: int | None = None
) -> tuple[int | None, int | None]:
    """The recycles and members of the preset ``one_shot``, but for those that are given; None for all of the card's.

    Raises:
        ValueError: there is no such preset.
    """
    if one_shot not in ONE_SHOT:
        raise ValueError(f"{one_shot=} must be one of {ONE_SHOT}")
    preset = 1 if one_shot == FAST else None
    return preset if recycles is None else recycles, preset if members is None else members
