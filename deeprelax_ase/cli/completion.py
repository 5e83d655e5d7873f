"""Words that shells complete, known without torch and ASE: a key that is pressed is answered at once."""

from __future__ import annotations

from collections.abc import Callable

#: What ``--calculator`` takes by name.
CALCULATORS = ("none", "m3gnet", "tensornet", "chgnet", "chgnet:r2scan", "sevennet", "matgl:")

#: What ``--finish`` takes: the package's own, none at all, and those of ASE's that move step by step.
FINISHES = (
    "fire",
    "fast",
    "none",
    "bfgs",
    "bfgslinesearch",
    "cellawarebfgs",
    "fire2",
    "goodoldquasinewton",
    "gpmin",
    "lbfgs",
    "lbfgslinesearch",
    "mdmin",
    "preconfire",
    "preconlbfgs",
    "quasinewton",
    "rfo",
)

#: Completes one word: from what is typed of it to what it may be.
Completes = Callable[[str], list[str]]


def one_of(*words: str) -> Completes:
    """Completes one of ``words``."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def models(incomplete: str) -> list[str]:
    """Complete the name of a model that ships with the package; those of files are left to the shell."""
    from deeprelax_ase.models.registry import WEIGHTS

    return [file.stem for file in sorted(WEIGHTS.glob("*.json")) if file.stem.lower().startswith(incomplete.lower())]
