"""``deeprelax candidates``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from deeprelax_ase.cli.common import INTERRUPTED, OK, SOME_FAILED, errors, require, stopping, terminal
from deeprelax_ase.cli.completion import one_of
from deeprelax_ase.cli.options import OutputFile, Overwrite, Quiet, argument, option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deeprelax_ase.crystal import Crystal
    from deeprelax_ase.io.source import Source
    from deeprelax_ase.labelling import Candidate

EXAMPLES = """\
Examples:

    deeprelax candidates prototypes.extxyz --number 1000 -o candidates.extxyz
    deeprelax candidates my_cifs/ --number 500 --elements Li,Na,Mn,Fe,O,F \\
        --neutral -o candidates.db
    deeprelax candidates layered.extxyz --number 200 --kind layer \\
        --kind slab=0.5 -o layers.extxyz
    deeprelax label candidates.extxyz --calculator m3gnet --out labelled

The same sources, options and seed make the same candidates; with a larger number the first ones stay.

Exit code 1: there are fewer than wanted, as no more were found.
"""

Sources = Annotated[
    list[str], argument("SOURCE...", "Relaxed crystals: files, folders, archives, databases; file@0:10 takes a part.")
]
Kinds = Annotated[
    list[str] | None,
    option(
        "Kind of candidate, and its share among them, 1 if none is given; repeatable: substituted (alike elements), "
        "strained (these, scaled, strained and rattled), shared (a site shared by two elements), ionic (as these, "
        "anions for anions), defect (a vacancy or dopants), slab, layer (of layered crystals), rattled.",
        "--kind",
        metavar="KIND[=SHARE]",
        default="all",
        completes=one_of("substituted", "strained", "shared", "ionic", "defect", "slab", "layer", "rattled"),
    ),
]
Elements = Annotated[
    str | None,
    option("Elements that are put in, in any combination.", metavar="Li,Mn,O", default="those of the sources"),
]
KnownSystems = Annotated[bool, option("Only combinations of elements that a source has too.", "--known-systems")]
Neutral = Annotated[bool, option("Only those whose oxidation states, by pymatgen, can add up to nothing.", "--neutral")]
Number = Annotated[int, option("How many.", "-n", "--number", metavar="N", min=1)]
MostAtoms = Annotated[int, option("Of a candidate.", metavar="N", min=1)]
Strain = Annotated[float, option("Largest standard deviation of the strain.", metavar="FRACTION", min=0.0)]
Rattle = Annotated[float, option("The same of the displacements.", metavar="Å", min=0.0)]
Vacuum = Annotated[float, option("Vacuum above slabs and layers.", metavar="Å", min=0.0)]


def candidates(
    sources: Sources,
    output: OutputFile,
    number: Number,
    seed: Annotated[int, option("Of all that is drawn.", metavar="N", min=0)] = 0,
    kinds: Kinds = None,
    elements: Elements = None,
    known_systems: KnownSystems = False,
    neutral: Neutral = False,
    most_atoms: MostAtoms = 48,
    strain: Strain = 0.03,
    rattle: Rattle = 0.12,
    vacuum: Vacuum = 15.0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Make hypothetical crystals of known ones, to relax and to learn from.

    No two are the same crystal, and none is a source. Each carries the info keys id, kind, and source, which names the
    crystal that it was made of. Slabs and layers repeat in two directions.
    """
    if neutral:
        require("pymatgen", "screening")
    from deeprelax_ase.io.output import check_output
    from deeprelax_ase.io.source import open_source
    from deeprelax_ase.labelling import CandidateSettings, distinct_candidates

    with stopping(output):
        opened = [open_source(name) for name in sources]
        file_format = check_output(output, inputs=opened, several=number > 1, overwrite=overwrite)
        shares = _shares(kinds)
        sizes = {"most_atoms": most_atoms, "strain": strain, "rattle": rattle, "vacuum": vacuum}
        settings = CandidateSettings(**({"shares": shares} if shares else {}), **sizes)  # type: ignore[arg-type]
        names, crystals = _read(opened)
        found = distinct_candidates(
            crystals,
            number,
            seed=seed,
            systems=None,
            elements=None if known_systems else _numbers(elements, crystals),
            settings=settings,
            neutral=neutral,
        )
        made = _written(found, names, output, file_format, number=number, seed=seed, overwrite=overwrite, quiet=quiet)
    if made and not quiet:
        told = ", ".join(f"{count:,} {kind}" for kind, count in sorted(made.items(), key=lambda item: -item[1]))
        text = f"{sum(made.values()):,} candidates written to {escape(output)}: {told}"
        terminal().print(text, soft_wrap=True)
    if (short := number - sum(made.values())) > 0:
        errors().print(
            f"{short:,} fewer than wanted: nothing else was found. Give more sources, elements or kinds, or a larger "
            "--strain and --rattle.",
            soft_wrap=True,
        )
    raise typer.Exit(SOME_FAILED if short else OK)


def _shares(kinds: list[str] | None) -> dict[str, float]:
    """The share of each kind that was named.

    Raises:
        ValueError: a share is no number.
    """
    shares: dict[str, float] = {}
    for text in kinds or []:
        name, equals, share = text.partition("=")
        try:
            shares[name] = float(share) if equals else 1.0
        except ValueError:
            raise ValueError(f"--kind {text}: the share must be a number, such as {name}=0.5") from None
    return shares


def _numbers(elements: str | None, crystals: list[Crystal]) -> set[int]:
    """Atomic numbers of the elements that are named, or of those in ``crystals``.

    Raises:
        ValueError: something is no element.
    """
    from ase.data import atomic_numbers

    if elements is None:
        return {int(z) for crystal in crystals for z in crystal.numbers}
    symbols = elements.replace(",", " ").split()
    if unknown := [symbol for symbol in symbols if not atomic_numbers.get(symbol)]:
        raise ValueError(f"--elements: {', '.join(unknown)} is no element. Give symbols such as Li,Mn,O")
    return {atomic_numbers[symbol] for symbol in symbols}


def _read(sources: list[Source]) -> tuple[list[str], list[Crystal]]:
    """Names and crystals that candidates can be made of; the others are told."""
    from deeprelax_ase.crystal import Crystal, crystal_or_error
    from deeprelax_ase.labelling.similarity import MENDELEEV

    names, crystals, skipped = list[str](), list[Crystal](), list[str]()
    for frame in (frame for source in sources for frame in source.frames()):
        crystal = frame.error or crystal_or_error(frame.atoms)
        if not isinstance(crystal, Crystal):
            skipped.append(f"{frame.label}: {crystal}")
        elif max(crystal.numbers) > len(MENDELEEV):
            skipped.append(f"{frame.label}: it holds an element beyond {len(MENDELEEV)}")
        else:
            names.append(frame.name)
            crystals.append(crystal.as_given)
    if skipped and crystals:
        errors().print(f"[yellow]Note:[/] {len(skipped):,} sources left out: {escape(skipped[0])}", soft_wrap=True)
    if not crystals:
        raise ValueError(f"no source can be used. {skipped[0]}")
    return names, crystals


def _written(
    found: Iterator[Candidate],
    names: list[str],
    output: str,
    file_format: str,
    *,
    number: int,
    seed: int,
    overwrite: bool,
    quiet: bool,
) -> dict[str, int]:
    """Write the candidates; returns how many of each kind there are."""
    from deeprelax_ase.io.sink import open_sink
    from deeprelax_ase.progress import progress

    made: dict[str, int] = {}
    try:
        with (
            open_sink(output, file_format, overwrite=overwrite) as sink,
            progress(errors(), visible=not quiet) as bar,
        ):
            task = bar.add_task("making candidates", total=number)
            for count, candidate in enumerate(found):
                atoms = candidate.crystal.to_atoms()
                atoms.info = {
                    "id": f"candidate-{seed}-{count}",
                    "kind": candidate.kind,
                    "source": names[candidate.source],
                }
                sink.write(atoms)
                made[candidate.kind] = made.get(candidate.kind, 0) + 1
                bar.advance(task)
    except KeyboardInterrupt:
        errors().print(f"interrupted: {sum(made.values()):,} candidates are in {escape(output)}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    return made
