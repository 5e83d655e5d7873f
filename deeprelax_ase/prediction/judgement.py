"""Jumps that no calculator checks: refused where the model expects to be too far off."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from deeprelax_ase.errors import ModelError, UncertainPredictionError
from deeprelax_ase.optimizers.acceptance import REFUSED, JumpDecision

if TYPE_CHECKING:
    from deeprelax_ase.prediction.record import Prediction

#: What may come with a refusal: nothing, a warning, an error.
ON_UNCERTAIN = ("keep", "warn", "raise")


def refusal(prediction: Prediction, max_error: float | None) -> JumpDecision | None:
    """Why the jump is not made; None where it is.

    Args:
        prediction: of a model whose errors are calibrated; those of other models are never refused.
        max_error: Å, the largest expected error of the coordinates; None for the limit that calibration has set, beyond
            which a prediction is unlike those that its errors are known of.

    Raises:
        ModelError: a limit is given, and the model's errors are not calibrated.
    """
    error = prediction.error
    if error is None:
        if max_error is None:
            return None
        raise ModelError(f"{prediction.model} has no calibrated errors to hold against {max_error=}: leave it out")
    if max_error is None and error.ood:
        return JumpDecision(
            REFUSED,
            f"the crystal is unlike those that the model knows (expected error {error.coordinates:.3f} Å, "
            f"of the volume {100 * error.volume:.1f} %)",
        )
    if max_error is not None and not error.coordinates <= max_error:
        return JumpDecision(REFUSED, f"its expected error {error.coordinates:.3f} Å is above max_error={max_error:g} Å")
    return None


def announce(decision: JumpDecision, on_uncertain: str) -> None:
    """Say of a refused jump what the caller wants to hear of it.

    Raises:
        UncertainPredictionError: if that is ``"raise"``.
    """
    advice = "Attach a calculator, which can tell, or raise max_error (math.inf for any)."
    text = f"the crystal is left as it is: {decision.reason}. {advice}"
    if on_uncertain == "raise":
        raise UncertainPredictionError(text)
    if on_uncertain == "warn":
        warnings.warn(text, stacklevel=2)
