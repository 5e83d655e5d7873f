"""Small tables that show records in notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np

from deeprelax_ase.uncertainty.calibration import CalibratedError

_CELL = "text-align: left; padding: 0.1em 0.8em"


def html_table(title: str, facts: Mapping[str, str]) -> str:
    """A table of two columns; names and values are text, not markup."""
    rows = "".join(
        f'<tr><th scope="row" style="{_CELL}">{escape(name)}</th><td style="{_CELL}">{escape(value)}</td></tr>'
        for name, value in facts.items()
    )
    return f'<table><caption style="{_CELL}">{escape(title)}</caption><tbody>{rows}</tbody></table>'


def expected_errors(error: CalibratedError) -> str:
    """``expected error 0.031 Å, volume 0.8 %``; without the volume's where the cell is kept."""
    volume = "" if error.volume is None else f", volume {100 * error.volume:.1f} %"
    return f"expected error {error.coordinates:.3f} Å{volume}"


def crystal_label(numbers: np.ndarray) -> str:
    """``MgO, 2 atoms``."""
    from ase.symbols import Symbols

    return f"{Symbols(numbers).formula.format('metal')}, {len(numbers)} atom{'s' if len(numbers) > 1 else ''}"
