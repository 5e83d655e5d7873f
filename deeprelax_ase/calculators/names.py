"""Names of calculators in results."""

from __future__ import annotations

from typing import Any


def calculator_name(calculator: Any) -> str:
    """The name that ASE has for ``calculator``, such as ``"emt"``; that of its class where it is none of ASE's kinds.

    MatGL's potentials are called by their architecture, ``"m3gnet"`` or ``"tensornet"``, and CHGNet ``"chgnet"``, as
    :func:`~deeprelax_ase.calculators.get_calculator` calls them.
    """
    name = getattr(calculator, "name", None)
    return name if isinstance(name, str) and name else type(calculator).__name__.lower()
