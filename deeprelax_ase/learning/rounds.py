"""The loop itself: every stage of a round is on the disk once it is done, so that the same call goes on with a run."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from deeprelax_ase.crystal import Crystal, crystal_or_error
from deeprelax_ase.data import PairDataset
from deeprelax_ase.data.dataset import LABELLED as PAIRS
from deeprelax_ase.data.dataset import group_name
from deeprelax_ase.errors import OutputError
from deeprelax_ase.io.sink import open_sink
from deeprelax_ase.io.source import open_source, read_frames
from deeprelax_ase.labelling import label, label_folder
from deeprelax_ase.labelling.rows import LABELLED
from deeprelax_ase.learning.choice import choose, cover, expected_error, value_of
from deeprelax_ase.learning.settings import LearnSettings, Round, read_rounds, round_folder
from deeprelax_ase.learning.tuning import recalibrate, tune
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.loading import load_model
from deeprelax_ase.prediction.devices import device_of
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.training.run import measure

#: Is told what is being done, and the round.
Observer = Callable[[str, int], None]

#: Crystals that are labelled together at the least, and parts of a round that several processes share.
_BLOCK, _BLOCKS = 10, 8

_HELD, _CHOSEN, _LABELS, _TUNED = "held", "chosen.extxyz", "labels", "tuned"


def learn(
    sources: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    settings: LearnSettings,
    *,
    workers: int | None = None,
    observe: Observer = lambda doing, number: None,
    finished: Callable[[list[Round]], None] = lambda rounds: None,
) -> list[Round]:
    """Teach a model the minima of a potential, by labels for the crystals that teach it most.

    Some crystals are held out and labelled first. Each round predicts the others, chooses some, labels them, tunes the
    model that all began with on all labels so far, calibrates it anew and measures it. The loop ends once the error on
    the test crystals is below the target, or the budget or the crystals are used up. The same call goes on with a run
    that was interrupted at any moment; a larger budget or a lower target goes on with one that ended.

    Args:
        sources: crystals to choose from, see :func:`~deeprelax_ase.io.source.open_source`; those that cannot be
            predicted are left out.
        out: folder, made if need be: ``held``, and ``round-01`` and so on, each with what was chosen, its labels, the
            pairs of all labels so far, the tuned model, and its result.
        settings: how.
        workers: processes that label, see :func:`~deeprelax_ase.labelling.label`.
        observe: is told what is being done.
        finished: is told all rounds, after each.

    Returns:
        the rounds, the model as it was first.

    Raises:
        OutputError: the folder holds something else, or was begun otherwise.
        ValueError: there are too few crystals, or too few labels among those that are held out.
        DeepRelaxError: the model, the potential or the device cannot be had.
    """
    folder = Path(out)
    settings.agree(folder, [open_source(name).digest() for name in sources])
    loop = _Loop(folder, settings, workers, observe, _pool(sources))
    rounds = read_rounds(folder)
    while not (rounds and loop.ended(rounds)) and (made := loop.round(len(rounds))) is not None:
        made.write(round_folder(folder, made.number))
        rounds.append(made)
        finished(rounds)
    return rounds


def _pool(sources: Sequence[str | os.PathLike]) -> list[Crystal]:
    found = (frame.error or crystal_or_error(frame.atoms) for frame in read_frames(sources))
    return [crystal for crystal in found if isinstance(crystal, Crystal)]


@dataclass(eq=False)
class _Loop:
    folder: Path
    settings: LearnSettings
    workers: int | None
    observe: Observer
    pool: list[Crystal]
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        groups, by = dict[str, list[int]](), self.settings.group_by
        for place, crystal in enumerate(self.pool):
            groups.setdefault(str(place) if by == "pair" else group_name(crystal.numbers, by), []).append(place)
        rng, wanted = np.random.default_rng([self.settings.seed, 0]), self.settings.held
        self.held, self.open = list[int](), list(range(len(self.pool)))
        for number in rng.permutation(len(groups)):
            if len(self.held) < wanted:
                group = list(groups.values())[number]
                self.held += group[: wanted - len(self.held)]
                self.open = sorted(set(self.open) - set(group))
        if not self.open or len(self.held) < wanted:
            raise ValueError(
                f"of {len(self.pool)} crystals {len(self.held)} would be held out, and {len(self.open)} left to learn "
                f"from, as all of a {by} are kept together. Give more crystals, a smaller number "
                'to hold out, or group_by="pair".'
            )

    def ended(self, rounds: list[Round]) -> bool:
        """Whether nothing is left to do."""
        last, target = rounds[-1], self.settings.target
        reached = target is not None and last.error <= target
        return reached or last.labelled >= min(self.settings.budget, len(self.open))

    def round(self, number: int) -> Round | None:
        """Do a round, or what is left to do of it; None where the model can predict nothing that is left."""
        self.seconds = {}
        return self._first() if number == 0 else self._learned(number)

    def _first(self) -> Round:
        """Label what is held out, and measure the model as it is."""
        here = self.folder / _HELD
        with self._timed("label", "labelling what is held out", 0):
            self._write(here / _CHOSEN, dict.fromkeys(self.held))
            splits = self._label(here, fractions=(0.0, 0.5, 0.5))
        if not splits.get("validation") or not splits.get("test"):
            raise ValueError(f"of {len(self.held)} crystals that are held out too few gave labels: {splits}, in {here}")
        model = load_model(self.settings.model)
        test = PairDataset.read(here / _LABELS, dtype=torch.float32).pairs.in_split("test")
        errors = measure(model, test, device_of(self.settings.device), recycles=model.card.recycles)
        return Round(0, 0, 0, self.settings.model, seconds=self.seconds, **_errors(errors))

    def _learned(self, number: int) -> Round | None:
        here = round_folder(self.folder, number)
        with self._timed("choose", "predicting and choosing", number):
            if not (here / _CHOSEN).exists() and not self._choose(number, here):
                return None
        with self._timed("label", "labelling", number):
            self._label(here, fractions=(1.0, 0.0, 0.0))
        pairs = here / PAIRS
        parts = [round_folder(self.folder, n) for n in range(1, number + 1)]
        files = [part / _LABELS / PAIRS for part in parts if (part / _LABELS / PAIRS).exists()]
        if not files:
            raise ValueError(f"no crystal that was chosen gave a label; see {here / _LABELS}")
        dataset = PairDataset.read([*files, self.folder / _HELD / _LABELS / PAIRS])
        dataset.save(pairs)
        with self._timed("train", "training", number):
            card = self._tuned(number, here, pairs)
        with self._timed("calibrate", "calibrating", number):
            recalibrate(card, pairs, device=self.settings.device)
        tables = label_folder(here / _LABELS).tables(["status", "force_calls"])
        rows = [row for table in tables for row in table.to_pylist()]
        return Round(
            number,
            sum(len(_chosen(part)) for part in parts),
            len(dataset.in_split("train")),
            os.fspath(card),
            expected=float(np.mean([atoms.info["expected"] for atoms in _frames(here / _CHOSEN)])),
            force_calls=sum(row["force_calls"] or 0 for row in rows),
            dropped=dict(Counter(row["status"] for row in rows if row["status"] != LABELLED)),
            seconds=self.seconds,
            **_errors(ModelCard.read(card).metrics["test"]),
        )

    def _choose(self, number: int, here: Path) -> bool:
        """Write what is labelled next; returns whether there is anything."""
        settings = self.settings
        before = [place for n in range(1, number) for place in _chosen(round_folder(self.folder, n))]
        left = sorted(set(self.open) - set(before))
        predictor = Predictor(read_rounds(self.folder)[-1].model, device=settings.device)
        made = zip(left, predictor.predict_many([self.pool[place] for place in left], bonds=False), strict=True)
        known = [(place, one) for place, one in made if isinstance(one, Prediction)]
        crystals, labelled = [self.pool[place] for place, _ in known], [self.pool[place] for place in before]
        most = min(settings.each, settings.budget - len(before))
        if settings.choice == "cover":
            taken = cover(np.array([expected_error(one) for _, one in known]), crystals, labelled, most)
        else:
            rng = np.random.default_rng([settings.seed, number])
            values = value_of([one for _, one in known], settings.choice, rng)
            spread = 1 if settings.choice == "random" else settings.spread
            taken = choose(values, crystals, labelled, most, spread=spread)
        if taken:
            self._write(here / _CHOSEN, {known[n][0]: expected_error(known[n][1]) for n in taken})
        return bool(taken)

    def _write(self, file: Path, chosen: Mapping[int, float | None]) -> None:
        """Write crystals of the pool, by their places, whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with open_sink(os.fspath(file), "extxyz", whole=True, overwrite=True) as sink:
            for place, expected in chosen.items():
                atoms = self.pool[place].to_atoms()
                atoms.info = {"id": f"crystal-{place}", "place": place}
                if expected is not None:
                    atoms.info["expected"] = expected
                sink.write(atoms)

    def _label(self, here: Path, *, fractions: tuple[float, float, float]) -> dict[str, int]:
        """Label what was chosen in the folder ``here``; returns how many pairs are in each split."""
        report = label(
            [here / _CHOSEN],
            here / _LABELS,
            self.settings.label,
            workers=self.workers,
            block_size=max(_BLOCK, self.settings.each // _BLOCKS),  # the same on any machine that goes on
            level=self.settings.level,
            fractions=fractions,
            group_by="pair",
            seed=self.settings.seed,
        )
        return report.splits

    def _tuned(self, number: int, here: Path, pairs: Path) -> Path:
        settings = self.settings
        return tune(
            settings.model,
            pairs,
            here / _TUNED,
            name=f"{load_model(settings.model).card.name}-round-{number}",
            level=settings.level,
            seed=settings.seed,
            members=settings.members,
            epochs=settings.epochs,
            device=settings.device,
            changes=settings.changes,
        )

    @contextmanager
    def _timed(self, stage: str, doing: str, number: int) -> Iterator[None]:
        self.observe(doing, number)
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - start, 2)


def _frames(file: Path) -> list[Atoms]:
    frames = list(read_frames(file))
    if any(frame.atoms is None for frame in frames):
        raise OutputError(f"{file} is damaged: {frames[0].error}. Remove the folder it is in, to have the round again.")
    return [frame.atoms for frame in frames if frame.atoms is not None]


def _chosen(here: Path) -> list[int]:
    """Places in the pool of what a round chose."""
    return [int(atoms.info["place"]) for atoms in _frames(here / _CHOSEN)]


def _errors(found: dict[str, float]) -> dict[str, Any]:
    return {
        "error": found["coordinates"] + found["lattice"],
        "coordinates": found["coordinates"],
        "lattice": found["lattice"],
        "volume": found["volume"],
        "unrelaxed": found["unrelaxed coordinates"] + found["unrelaxed lattice"],
    }
