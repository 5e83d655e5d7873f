"""What a network predicts, compared under isometries and reorderings."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from deeprelax_ase.nn.records import Relaxation

#: Fields with one row for each atom.
PER_ATOM = ("displacements", "displacement_scales")


def assert_same(
    actual: list[Relaxation],
    expected: list[Relaxation],
    *,
    isometry: Tensor | None = None,
    atoms: Tensor | list[int] | None = None,
    atol: float = 1e-10,
) -> None:
    """Whether ``actual`` is ``expected`` turned by ``isometry``, its atoms being ``atoms`` of the expected ones."""
    q = torch.eye(3, dtype=torch.float64) if isometry is None else isometry
    assert len(actual) == len(expected)
    for block, (found, wanted) in enumerate(zip(actual, expected, strict=True)):
        for f in fields(Relaxation):
            value = getattr(wanted, f.name)
            if atoms is not None and f.name in PER_ATOM:
                value = value[atoms]
            if f.name == "displacements":
                value = value @ q
            elif f.name == "strain":
                value = q.T @ value @ q
            torch.testing.assert_close(
                getattr(found, f.name), value, rtol=0, atol=atol, msg=lambda m, f=f, b=block: f"block {b} {f.name}: {m}"
            )
