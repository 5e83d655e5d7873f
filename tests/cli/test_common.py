"""Messages as a user of the command line reads them."""

from __future__ import annotations

import pytest

from deeprelax_ase.cli.common import as_typed, options_typed


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("replace it with overwrite=True.", "replace it with --overwrite."),
        ("on_uncertain='raise' would end all", "--on-uncertain raise would end all"),
        ("Unknown group_by='of mine'", "Unknown --group-by 'of mine'"),
        ("is above max_error=0.05 Å", "is above --max-error 0.05 Å"),
        ("nothing to hold against max_error", "nothing to hold against --max-error"),
        ("keep the cell (relax_cell=False)", "keep the cell (--fixed-cell)"),
        ("leave relax_cell=True out", "leave --relax-cell out"),
        ("overwrite=False", "overwrite=False"),  # no option says so
        (
            "rotate_cell=True, deeprelax_error, out/max_error.cif",
            "rotate_cell=True, deeprelax_error, out/max_error.cif",
        ),
    ],
)
def test_options_are_told_as_they_are_typed(message: str, told: str) -> None:
    names = ("on_uncertain", "group_by", "max_error", "overwrite")
    options = {name: (f"--{name.replace('_', '-')}", None) for name in names}
    token = options_typed.set({**options, "relax_cell": ("--relax-cell", "--fixed-cell")})
    try:
        assert as_typed(message) == told
    finally:
        options_typed.reset(token)


def test_outside_a_command_messages_stay() -> None:
    assert as_typed("overwrite=True") == "overwrite=True"
