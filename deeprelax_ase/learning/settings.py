"""Settings of the loop, and what each of its rounds came to, as they stand on the disk."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deeprelax_ase.data.dataset import check_split
from deeprelax_ase.errors import OutputError
from deeprelax_ase.evaluation import write_json
from deeprelax_ase.labelling import LabelOptions
from deeprelax_ase.models.registry import DEFAULT_MODEL

#: Ways to choose what is labelled next: by expected error and novelty together, by one of them, by the expected errors
#: that would be left far from any label, or by chance.
CHOICES = ("both", "error", "novelty", "cover", "random")

#: Settings that say when to stop, or where to compute: a run may go on with others.
_OPEN = ("budget", "target", "device", "label.device")

REQUEST = "learn.json"


@dataclass(frozen=True)
class LearnSettings:
    """Settings of the loop.

    Attributes:
        label: how crystals are relaxed into labels.
        model: name of a shipped model, or path of a card, that every round starts from.
        level: of theory in whose place the labels are learnt, one of :data:`~deeprelax_ase.data.LEVELS`.
        held: crystals that are labelled first, to validate and to test on.
        group_by: what is held out whole, so that no crystal of the same is learnt: a composition, a chemical system, or
            only the crystal itself, ``pair``.
        each: crystals that a round labels.
        budget: crystals that all rounds label together.
        target: Å, error on the test crystals that ends the loop; None for none.
        choice: one of :data:`CHOICES`.
        spread: the crystals of a round are those furthest apart among ``spread`` times as many of the highest value; 1
            takes these as they are.
        seed: of what is held out, of chance, and of training.
        members: of the ensemble that are tuned; all by default.
        epochs: most epochs of a round; that of fine-tuning by default.
        changes: settings of fine-tuning that differ, as ``NAME=VALUE``.
        device: for predictions and training.

    Raises:
        ValueError: a word is unknown, or a number makes no sense.
    """

    label: LabelOptions
    model: str = DEFAULT_MODEL
    level: str = "PBE"
    held: int = 60
    group_by: str = "composition"
    each: int = 50
    budget: int = 300
    target: float | None = None
    choice: str = "both"
    spread: int = 4
    seed: int = 0
    members: int | None = None
    epochs: float | None = None
    changes: tuple[str, ...] = field(default_factory=tuple)
    device: str = "auto"

    def __post_init__(self) -> None:
        check_split(level=self.level, group_by=self.group_by)
        if self.choice not in CHOICES:
            raise ValueError(f"Unknown choice={self.choice!r}, must be one of {CHOICES}")
        if self.held < 4 or min(self.each, self.budget, self.spread) < 1:
            raise ValueError(
                f"held={self.held} must be at least 4, and each={self.each}, budget={self.budget} and "
                f"spread={self.spread} at least 1"
            )

    def agree(self, folder: Path, inputs: list[str]) -> None:
        """Begin ``folder`` with these settings and ``inputs``, digests, or go on with one that was begun so.

        Raises:
            OutputError: it was begun with others; the message says which.
        """
        wanted = {**_flat(asdict(self)), "inputs": inputs}
        file = folder / REQUEST
        if not file.exists():
            if folder.exists() and any(folder.iterdir()):
                raise OutputError(f"{folder} holds something else. Give a new folder.")
            write_json(file, wanted)
            return
        try:
            there = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise OutputError(f"{file} is damaged: {error}. Give a new folder.") from error
        for name, new in json.loads(json.dumps(wanted)).items():
            if name not in _OPEN and there.get(name) != new:
                raise OutputError(
                    f"{folder} was begun with other {name}: {there.get(name)!r}, now {new!r}. Give what it was begun "
                    "with, or another folder. Only budget, target and device may change."
                )


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Nested values by names such as ``label.fmax``."""
    label = values.pop("label")
    return {**values, **{f"label.{name}": value for name, value in label.items()}}


@dataclass(frozen=True)
class Round:
    """Result of a round; round 0 is the model as it was.

    Attributes:
        number: of the round.
        labelled: crystals that were relaxed for learning so far, dropped ones too.
        pairs: training pairs that came of them.
        model: name, or path of the card.
        error: Å, mean error of coordinates and of lattice vectors together, on the test crystals.
        coordinates, lattice: Å, the two alone.
        volume: Å³, mean error of cell volumes.
        unrelaxed: Å, ``error`` of the test crystals as they are before anything predicts.
        expected: Å, mean expected error of the crystals that the round chose, before; None in round 0.
        force_calls: of the potential, in this round.
        dropped: crystals of this round that gave no pair, by reason.
        seconds: this round took, by stage, in the call that ended it.
    """

    number: int
    labelled: int
    pairs: int
    model: str
    error: float
    coordinates: float
    lattice: float
    volume: float
    unrelaxed: float
    expected: float | None = None
    force_calls: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write it into the ``folder`` of the round, whole or not at all, its model as seen from the run's folder."""
        model = Path(self.model)
        named = model.relative_to(folder.parent).as_posix() if folder.parent in model.parents else self.model
        write_json(folder / "round.json", {**asdict(self), "model": named})


def round_folder(out: Path, number: int) -> Path:
    """The folder of a round."""
    return out / f"round-{number:02d}"


def read_rounds(out: Path) -> list[Round]:
    """The rounds of a folder that are done, in order.

    Raises:
        OutputError: one is damaged, or there is no such folder.
    """
    if not (out / REQUEST).exists():
        raise OutputError(f"{out} holds no loop of learning: there is no {REQUEST}")
    rounds: list[Round] = []
    while (file := round_folder(out, len(rounds)) / "round.json").exists():
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            own = out / values["model"]
            rounds.append(Round(**{**values, "model": str(own) if own.is_file() else values["model"]}))
        except (KeyError, TypeError, ValueError) as error:
            raise OutputError(f"{file} is damaged: {error}. Remove it to have the round done again.") from error
    return rounds
