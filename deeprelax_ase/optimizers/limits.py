"""Limits of a relaxation under a potential, as every door for many crystals takes them."""


def check_fmax(fmax: float) -> float:
    """``fmax`` in eV/Å, the largest force that counts as converged.

    ``DeepRelaxOptimizer`` itself takes 0, as ASE's optimizers do: who drives one crystal may want all of its steps.

    Raises:
        ValueError: no relaxation would ever end there.
    """
    if not fmax > 0:
        raise ValueError(f"{fmax=:g} eV/Å is a force that no relaxation ends at: give one above 0, such as 0.05")
    return fmax
