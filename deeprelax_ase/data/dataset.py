"""One data set of relaxation pairs from whatever holds them."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import length_hint
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from deeprelax_ase.data.matching import MATCH_KINDS, Matched, MatchError, match
from deeprelax_ase.data.packed import is_packed, read_packed
from deeprelax_ase.data.pairs import LEVELS, SPLITS, RelaxationPairs, chosen_by, concatenate, load_pairs
from deeprelax_ase.data.readers import FORMATS, DataError, RawPair, Refused, format_of
from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.io.placing import placed
from deeprelax_ase.io.source import path_of

#: File of the pairs in a folder that ``deeprelax label`` makes.
LABELLED = "pairs.npz"

#: Properties that pairs share if they are kept on one side of a split.
GROUPS = ("composition", "chemical system", "pair")


@dataclass(frozen=True, eq=False)
class PairDataset:
    """Relaxation pairs with their names, and those that were left out with the reasons.

    Attributes:
        pairs: G pairs as flat tensors.
        names: (G,) what each is called in its source.
        how: (G,) how each was matched, see :data:`~deeprelax_ase.data.matching.MATCH_KINDS`.
        refused: pairs that were left out.
        turned: (G,) radians by which the relaxed crystals were turned back.
    """

    pairs: RelaxationPairs
    names: tuple[str, ...]
    how: tuple[str, ...]
    refused: tuple[Refused, ...] = ()
    turned: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    @classmethod
    def read(
        cls,
        sources: Sequence[str | os.PathLike] | str | os.PathLike,
        *,
        format: str = "auto",
        key: str | None = None,
        level: str = "PBE",
        labels: str = "relaxed",
        start_forces: bool = False,
        fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
        group_by: str = "composition",
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        advance: Callable[[], object] = lambda: None,
        expect: Callable[[int | None], object] = lambda total: None,
    ) -> PairDataset:
        """Read pairs and match them atom by atom.

        Args:
            sources: files or folders of one format, that of ``deeprelax label`` among them; names may have wildcards,
                ``runs/*.traj``, and an index of pairs, ``pairs.npz@0:100``: of database rows, documents, frames of a
                trajectory, files in a folder of these.
            format: ``npz``, or a row of :data:`~deeprelax_ase.data.readers.FORMATS`; ``auto`` looks.
            key: names the pairs: a column of the tables of CIF folders, a key of database rows, of the ``info`` of
                trajectories, or of documents. Each format has usual ones.
            level: of theory of the relaxed crystals, one of :data:`~deeprelax_ase.data.LEVELS`; npz files say it.
            labels: of npz files, see :func:`~deeprelax_ase.data.load_pairs`; packed ones have ``relaxed`` alone.
            start_forces: of npz files, see :func:`~deeprelax_ase.data.load_pairs` too.
            fractions: shares for training, validation and test, of sources that do not say what belongs where.
            group_by: property that such pairs share if they are kept together, one of :data:`GROUPS`.
            seed: of that split, which does not depend on the order of the pairs.
            dtype: of the geometry.
            advance: called after each pair.
            expect: called before the first with how many there are; None where the source does not know.

        Raises:
            DataError: nothing can be read, or a setting is unknown; single pairs that cannot be used are refused.
        """
        given = [sources] if isinstance(sources, str | os.PathLike) else sources
        paths = [path for source in given for path in expanded(source)]
        if format not in (known := ("auto", "npz", *FORMATS)):
            raise DataError(f"Unknown format={format!r}, must be one of {known}")
        check_split(level=level, fractions=fractions, group_by=group_by)
        try:
            if format == "npz" or (format == "auto" and paths and all(path_of(p).suffix == ".npz" for p in paths)):
                return _from_npz(paths, labels, dtype, start_forces=start_forces)
            row = format_of(paths) if format == "auto" else FORMATS[format]
            return cls.of(
                row.read(paths, key),
                level=level,
                fractions=fractions,
                group_by=group_by,
                seed=seed,
                dtype=dtype,
                advance=advance,
                expect=expect,
            )
        except StructureFileError as error:  # a source, or its index
            raise DataError(str(error)) from error

    @classmethod
    def of(
        cls,
        found: Iterable[RawPair | Refused],
        *,
        level: str = "PBE",
        fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
        group_by: str = "composition",
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        advance: Callable[[], object] = lambda: None,
        expect: Callable[[int | None], object] = lambda total: None,
    ) -> PairDataset:
        """Match pairs that were ``found``, atom by atom; for the other arguments see :meth:`read`.

        Raises:
            DataError: no pair can be used, or a setting is unknown.
        """
        check_split(level=level, fractions=fractions, group_by=group_by)
        total = length_hint(found, -1)
        expect(None if total < 0 else total)
        dataset = _collected(found, level, dtype, advance)
        return dataset if (dataset.pairs.split >= 0).all() else _with_splits(dataset, fractions, group_by, seed)

    def take(self, chosen: Tensor) -> PairDataset:
        """Take the pairs with the indices ``chosen`` (n,), in that order."""
        order = chosen.tolist()
        return PairDataset(
            self.pairs.take(chosen),
            tuple(self.names[n] for n in order),
            tuple(self.how[n] for n in order),
            self.refused,
            tuple(self.turned[n] for n in order),
        )

    def in_split(self, split: str) -> PairDataset:
        """Take the pairs of ``train``, ``validation`` or ``test``.

        Raises:
            ValueError: there is no such split.
        """
        if split not in SPLITS:
            raise ValueError(f"Unknown {split=}, must be one of {tuple(SPLITS)}")
        return self.take((self.pairs.split == SPLITS[split]).nonzero().squeeze(1))

    def save(self, file: str | os.PathLike, **known: np.ndarray) -> None:
        """Write an npz file, which is read in a moment, whole or not at all; names and relaxed energies are kept in it.

        Args:
            file: its name.
            **known: further arrays, such as those that :func:`~deeprelax_ase.data.load_pairs` reads with
                ``start_forces``.
        """
        pairs = self.pairs
        arrays = {
            "numbers": pairs.numbers.to(torch.uint8).numpy(),
            "offsets": np.concatenate([[0], pairs.counts.cumsum(0).numpy()]).astype(np.int32),
            "frac_initial": pairs.fractional_initial.numpy(),
            "cell_initial": pairs.cell_initial.numpy(),
            "frac_relaxed": pairs.fractional_relaxed.numpy(),
            "cell_relaxed": pairs.cell_relaxed.numpy(),
            "dft": pairs.dft.numpy(),
            "level": pairs.level.to(torch.uint8).numpy(),
            "split": pairs.split.to(torch.uint8).numpy(),
            "kind": pairs.kind.to(torch.int16).numpy(),
            "fixed_cell": pairs.fixed_cell.numpy(),
            "names": np.array(self.names),
        }
        if pairs.energy_relaxed.isfinite().any():
            arrays["energy_relaxed"] = pairs.energy_relaxed.numpy()
        arrays |= known
        path = Path(os.path.realpath(file if os.fspath(file).endswith(".npz") else f"{os.fspath(file)}.npz"))
        with placed(path) as part:
            np.savez_compressed(part, **arrays)  # type: ignore[arg-type]


def check_split(
    *, level: str = "PBE", fractions: Sequence[float] = (0.8, 0.1, 0.1), group_by: str = "composition", seed: int = 0
) -> None:
    """Check what :meth:`PairDataset.read` is told of pairs that do not say it.

    Raises:
        DataError: a setting is unknown.
    """
    for name, value, allowed in (("level", level, LEVELS), ("group_by", group_by, GROUPS)):
        if value not in allowed:
            raise DataError(f"Unknown {name}={value!r}, must be one of {allowed}")
    if len(fractions) != 3 or min(fractions) < 0 or not np.isclose(sum(fractions), 1.0):
        raise DataError(f"fractions must be three shares that add up to 1, got {fractions}")


def expanded(source: str | os.PathLike) -> list[Path]:
    """The files that a name with wildcards stands for, or the one of that very name; of a labelling its pairs."""
    path, name = path_of(source), os.fspath(source)
    index = "" if path == Path(name) else f"@{name.rpartition('@')[2]}"
    if (labelled := path / LABELLED).is_file():
        return [Path(f"{labelled}{index}")]
    if path.exists() or not glob.has_magic(name):
        return [Path(name)]
    return [Path(f"{file}{index}") for file in sorted(glob.glob(str(path)))] or [Path(name)]


def _from_npz(paths: Sequence[Path], labels: str, dtype: torch.dtype, *, start_forces: bool) -> PairDataset:
    parts: list[RelaxationPairs] = []
    names: list[str] = []
    for source in paths:
        try:
            path = path_of(source)
            packed = is_packed(path)
            if packed and labels != "relaxed":
                raise ValueError(f"packed pairs have no labels but 'relaxed', got {labels=}")
            if packed:
                part = read_packed(path, dtype=dtype)
            else:
                part = load_pairs(path, labels=labels, dtype=dtype, start_forces=start_forces)
            with np.load(path, allow_pickle=False) as arrays:
                given = arrays["names"].tolist() if "names" in arrays and labels == "relaxed" else None
            part, places = chosen_by(source, part)
        except StructureFileError:
            raise
        except (OSError, EOFError, ValueError, BadZipFile) as error:
            raise DataError(f"{source} cannot be read: {error}") from error
        parts.append(part)
        names += [given[n] if given else f"{path.stem}[{n}]" for n in places]
    pairs = concatenate(parts)
    return PairDataset(pairs, tuple(names), (MATCH_KINDS[0],) * len(pairs), (), (0.0,) * len(pairs))


def _collected(
    found: Iterable[RawPair | Refused], level: str, dtype: torch.dtype, advance: Callable[[], object]
) -> PairDataset:
    matched: list[Matched] = []
    names, splits, refused = [], [], []
    for item in found:
        advance()
        if isinstance(item, Refused):
            refused.append(item)
            continue
        try:
            matched.append(match(item.initial, item.relaxed, in_order=item.in_order))
        except (MatchError, np.linalg.LinAlgError) as error:
            refused.append(Refused(item.name, str(error)))
            continue
        names.append(item.name)
        splits.append(-1 if item.split is None else SPLITS[item.split])
    if not matched:
        reasons = "; ".join(f"{r.name}: {r.reason}" for r in refused[:3]) or "the source is empty"
        raise DataError(f"there is no pair that can be used ({len(refused)} refused). {reasons}")
    pairs = _flat(matched, splits, level, dtype)
    how = tuple(m.how for m in matched)
    return PairDataset(pairs, tuple(names), how, tuple(refused), tuple(m.turned for m in matched))


def _flat(matched: Sequence[Matched], splits: Sequence[int], level: str, dtype: torch.dtype) -> RelaxationPairs:
    def stacked(name: str, *, join: bool) -> Tensor:
        arrays = [getattr(m, name) for m in matched]
        return torch.from_numpy(np.concatenate(arrays) if join else np.stack(arrays))

    size = len(matched)
    return RelaxationPairs.without_forces(
        numbers=stacked("numbers", join=True).long(),
        counts=torch.tensor([len(m.numbers) for m in matched]),
        fractional_initial=stacked("fractional_initial", join=True).to(dtype),
        fractional_relaxed=stacked("fractional_relaxed", join=True).to(dtype),
        cell_initial=stacked("cell_initial", join=False).to(dtype),
        cell_relaxed=stacked("cell_relaxed", join=False).to(dtype),
        dft=torch.full((size,), level == "PBE"),
        level=torch.full((size,), LEVELS.index(level)),
        split=torch.tensor(splits),
        energy_relaxed=torch.full((size,), torch.nan, dtype=dtype),
        kind=torch.full((size,), -1),
        fixed_cell=torch.zeros(size, dtype=torch.bool),
    )


def _with_splits(dataset: PairDataset, fractions: Sequence[float], group_by: str, seed: int) -> PairDataset:
    """Put pairs that are in no split into one: groups in the order of a hash, until each share is full."""
    pairs = dataset.pairs
    groups: dict[str, list[int]] = {}
    for n, name in enumerate(group_names(dataset, group_by)):
        groups.setdefault(name, []).append(n)
    open_ones = {name: [n for n in members if pairs.split[n] < 0] for name, members in groups.items()}
    total = sum(map(len, open_ones.values()))
    split, filled, part = pairs.split.clone(), 0, 0
    ends = np.cumsum(fractions) * total
    for name in sorted(open_ones, key=lambda n: hashlib.sha256(f"{seed} {n}".encode()).digest()):
        members = open_ones[name]
        while part < 2 and filled + len(members) / 2 > ends[part]:
            part += 1
        for n in members:
            split[n] = part
        filled += len(members)
    return replace(dataset, pairs=replace(pairs, split=split))


def group_names(dataset: PairDataset, group_by: str) -> list[str]:
    """(G,) what the pairs that belong together share, see :data:`GROUPS`."""
    if group_by == "pair":
        return list(dataset.names)
    return [group_name(n.numpy(), group_by) for n in dataset.pairs.numbers.split(dataset.pairs.counts.tolist())]


def group_name(numbers: np.ndarray, group_by: str) -> str:
    """Name the chemical system, or the reduced composition, of a crystal with atomic ``numbers`` (N,)."""
    elements, counts = np.unique(numbers, return_counts=True)
    if group_by == "chemical system":
        return "-".join(map(str, elements))
    return " ".join(f"{z}:{n}" for z, n in zip(elements, counts // np.gcd.reduce(counts), strict=True))
