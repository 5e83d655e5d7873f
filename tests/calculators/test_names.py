from __future__ import annotations

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from deeprelax_ase.calculators.identity import calculator_name
from deeprelax_ase.optimizers.cached_calculator import CachedCalculator


class NoKindOfAse:
    """As GPAW's calculator, it has ASE's methods and not its class."""


@pytest.mark.parametrize(
    ("calculator", "name"), [(EMT(), "emt"), (LennardJones(), "lennardjones"), (NoKindOfAse(), "nokindofase")]
)
def test_what_a_calculator_is_called(calculator: object, name: str) -> None:
    assert calculator_name(calculator) == name


def test_one_that_remembers_is_called_as_what_it_stands_for() -> None:
    atoms = bulk("Cu")
    atoms.calc = EMT()
    assert calculator_name(CachedCalculator(atoms)) == "emt"
