"""FIRE of many crystals at once: each takes the steps that ASE's FIRE takes with it alone."""

from __future__ import annotations

import torch

from deeprelax_ase.optimizers.batched.state import BatchedState

#: As in ASE, after Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006).
_MAXSTEP, _DT, _DT_MAX, _N_MIN, _LONGER, _SHORTER, _A_START, _F_A = 0.2, 0.1, 1.0, 5, 1.1, 0.5, 0.1, 0.99


def begin(state: BatchedState) -> None:
    """Give the crystals of ``state`` velocities of zero."""
    size = state.crystals["size"]
    state.atoms["velocity"] = torch.zeros_like(state.atoms["x"])
    state.crystals |= {
        "velocity": torch.zeros_like(state.crystals["log"]),
        "dt": torch.full_like(size, _DT),
        "a": torch.full_like(size, _A_START),
        "downhill": torch.zeros_like(size),
    }


def step(state: BatchedState) -> None:
    """Make a step of every crystal of ``state``."""
    atoms, crystals, batch, forces = state.atoms, state.crystals, state.batch, state.pulls()
    power = state.sums(forces[0] * atoms["velocity"], forces[1] * crystals["velocity"])
    force = state.sums(forces[0].square(), forces[1].square()).sqrt()
    speed = state.sums(atoms["velocity"].square(), crystals["velocity"].square()).sqrt()
    first, down = crystals["steps"] == 0, power > 0
    a, dt, downhill = crystals["a"], crystals["dt"], crystals["downhill"]
    keep = torch.where(down, 1 - a, 0.0)
    turn = torch.where(down, a * speed / force, 0.0)
    longer = down & (downhill > _N_MIN)
    dt = torch.where(longer, (dt * _LONGER).clamp(max=_DT_MAX), dt)
    dt = torch.where(down | first, dt, dt * _SHORTER)
    crystals["a"] = torch.where(down, torch.where(longer, a * _F_A, a), _A_START)
    crystals["dt"], crystals["downhill"] = dt, torch.where(down, downhill + 1, 0.0)
    keep, turn, dt = keep[:, None], (turn + dt)[:, None], dt[:, None]
    atoms["velocity"] = keep[batch] * atoms["velocity"] + turn[batch] * forces[0]
    crystals["velocity"] = keep[:, :, None] * crystals["velocity"] + turn[:, :, None] * forces[1]
    length = dt[:, 0] * state.sums(atoms["velocity"].square(), crystals["velocity"].square()).sqrt()
    scale = dt * torch.where(length > _MAXSTEP, _MAXSTEP / length, 1.0)[:, None]
    state.move(scale[batch] * atoms["velocity"], scale[:, :, None] * crystals["velocity"])
