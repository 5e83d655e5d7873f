"""Whether a prediction is to be trusted: the one place that says so."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from deeprelax_ase.errors import ModelError, UncertainPredictionError
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.prediction.status import REFUSED, JumpDecision

#: What may come with a refusal: nothing, a warning, an error.
ON_UNCERTAIN = ("keep", "warn", "raise")


@dataclass(frozen=True)
class TrustLimits:
    """What a prediction has to meet.

    Attributes:
        max_error: Å, the largest expected error of the coordinates; None for no limit.
        max_uncertainty: Å, the largest :attr:`~deeprelax_ase.Uncertainty.total`; None for no limit.
        ood: whether a crystal unlike those that the model knows (out of distribution) is trusted.
        unsettled: whether a geometry is trusted whose solver did not come to rest.
    """

    max_error: float | None = None
    max_uncertainty: float | None = None
    ood: bool = False
    unsettled: bool = False


def doubt(prediction: Prediction, limits: TrustLimits) -> str:
    """Why a prediction is not to be trusted; empty where it is. An error that is no number is above any limit.

    Raises:
        ModelError: an error is limited, and the model's are not calibrated.
    """
    error, uncertainty = prediction.error, prediction.uncertainty.total
    if not (limits.unsettled or prediction.solver_converged):
        return "the geometry solver did not come to rest"
    if limits.max_uncertainty is not None and not uncertainty <= limits.max_uncertainty:
        return f"its uncertainty {uncertainty:.3g} Å is above max_uncertainty={limits.max_uncertainty:g} Å"
    if error is None:
        if limits.max_error is None:
            return ""
        raise ModelError(
            f"{prediction.model} has no calibrated errors to hold against max_error={limits.max_error}: leave it out"
        )
    if error.ood and not limits.ood:
        of_the_volume = "" if error.volume is None else f", of the volume {100 * error.volume:.1f} %"
        return (
            "the crystal is unlike those that the model knows "
            f"(expected error {error.coordinates:.3f} Å{of_the_volume})"
        )
    if limits.max_error is not None and not error.coordinates <= limits.max_error:
        return f"its expected error {error.coordinates:.3f} Å is above max_error={limits.max_error:g} Å"
    return ""


def refusal(prediction: Prediction, max_error: float | None) -> JumpDecision | None:
    """Why a jump that no calculator checks is not made; None where it is.

    Args:
        prediction: of a model whose errors are calibrated; those of other models are never refused.
        max_error: Å, the largest expected error of the coordinates; None for the limit that calibration has set, beyond
            which a prediction is unlike those that its errors are known of.

    Raises:
        ModelError: a limit is given, and the model's errors are not calibrated.
    """
    reason = doubt(prediction, TrustLimits(max_error=max_error, ood=max_error is not None, unsettled=True))
    return JumpDecision(REFUSED, reason) if reason else None


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
