"""The finish ``"fast"`` of many crystals at once: BFGS from the springs' curvature, within a trust region of each.

It does what :class:`~deeprelax_ase.optimizers.model_hessian.ModelHessianBFGS` does with one crystal, but for two
differences: the inverse of the Hessian is updated, so that nothing is solved for in a step; and where a step shows
almost no curvature, or a negative one, what it teaches is damped (Powell; Nocedal and Wright, Numerical Optimization,
2006, section 18.3), so that the Hessian stays positive.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deeprelax_ase.optimizers.batched_hessian import batched_model_hessian
from deeprelax_ase.optimizers.batched_state import BatchedState
from deeprelax_ase.optimizers.model_hessian import GOOD, LONGER, LONGEST, POOR, SHORTER, SHORTEST, Springs

#: Least share of the curvature expected along a step that is learnt.
_DAMPING = 0.05

#: Å, the longest step of an atom at first, as in ASE.
_MAXSTEP = 0.2


def begin(state: BatchedState, springs: Springs | None = None) -> None:
    """Give the crystals of ``state`` the curvature of ``springs``."""
    size = state.crystals["size"]
    inverse = torch.linalg.inv_ex(batched_model_hessian(state, springs or Springs())).inverse
    state.crystals |= {
        "inverse": inverse,
        "moved": torch.zeros_like(inverse[:, 0]),
        "forces": torch.zeros_like(inverse[:, 0]),
        "scale": torch.ones_like(size),
        "longest": torch.full_like(size, _MAXSTEP),
        "length": torch.zeros_like(size),
        "change": torch.zeros_like(size),
        "enthalpy": torch.zeros_like(size),
    }


def step(state: BatchedState) -> None:
    """Make a step of every crystal of ``state``."""
    crystals, (atoms, cell), (rows, most) = state.crystals, state.pulls(), state.slots
    if crystals["moved"].shape[1] > 3 * most:  # larger crystals have left
        for name in ("inverse", "moved", "forces"):
            crystals[name] = crystals[name][:, : 3 * most]
        crystals["inverse"] = crystals["inverse"][:, :, : 3 * most]
    here = cell.new_zeros(len(state), most, 3)
    here[:, :3] = cell
    here[state.batch, rows] = atoms
    here, enthalpies = here.flatten(1), state.enthalpies()
    stepped = crystals["steps"] > 0
    crystals["longest"] = torch.where(stepped, _next_longest(crystals, enthalpies), crystals["longest"])
    expected = crystals["scale"][:, None] * crystals["forces"]  # change of the gradient by the quadratic model
    crystals["inverse"] = _updated(crystals["inverse"], crystals["moved"], crystals["forces"] - here, expected, stepped)
    newton = (crystals["inverse"] @ here[:, :, None]).squeeze(2)
    length = torch.linalg.vector_norm(newton.view(len(state), -1, 3), dim=2).amax(dim=1)
    scale = (crystals["longest"] / length).clamp(max=1)
    gain = (here * newton).sum(dim=1)
    moved = scale[:, None] * newton
    crystals |= {"forces": here, "moved": moved, "scale": scale, "enthalpy": enthalpies, "length": scale * length}
    crystals["change"] = (scale.square() / 2 - scale) * gain
    moved = moved.view(len(state), -1, 3)
    state.move(moved[state.batch, rows], moved[:, :3])


def _next_longest(crystals: dict[str, Tensor], enthalpies: Tensor) -> Tensor:
    """(G,) Å, how long the next step may be, now that it is known where the last one led."""
    longest, length, change = crystals["longest"], crystals["length"], crystals["change"]
    share = torch.where(change < 0, (enthalpies - crystals["enthalpy"]) / change, 0.0)
    shorter = (SHORTER * torch.minimum(longest, length)).clamp(min=SHORTEST)
    longer = torch.minimum(longest.clamp(min=LONGEST), LONGER * longest)
    grown = torch.where((share > GOOD) & (length > 0.9 * longest), longer, longest)
    return torch.where(share < POOR, shorter, grown)


def _updated(inverse: Tensor, moved: Tensor, change: Tensor, expected: Tensor, stepped: Tensor) -> Tensor:
    """BFGS's (G, D, D) inverse Hessians after steps ``moved`` (G, D).

    Args:
        inverse: those before.
        moved: the steps.
        change: (G, D) of the gradients.
        expected: (G, D) the same by the quadratic model.
        stepped: (G,) which crystals made a step at all.
    """
    curvature, of_model = (moved * change).sum(dim=1), (moved * expected).sum(dim=1)
    share = torch.where(curvature < _DAMPING * of_model, (1 - _DAMPING) * of_model / (of_model - curvature), 1.0)
    change = torch.lerp(expected, change, share[:, None])
    curvature = (moved * change).sum(dim=1)
    learns = stepped & (curvature > 0) & (moved.abs().amax(dim=1) >= 1e-7)
    weight = torch.where(learns, 1 / curvature, 0.0)[:, None]
    pulled = (inverse @ change[:, :, None]).squeeze(2)
    factor = weight + weight.square() * (change * pulled).sum(dim=1, keepdim=True)
    both = (weight * moved)[:, :, None] * pulled[:, None, :]
    return inverse - both - both.mT + factor[:, :, None] * moved[:, :, None] * moved[:, None, :]
