"""Whether a prediction is to be trusted, and what comes of one that is not: the one place that says so.

Every door asks :func:`judge`: records, the optimizer, the commands ``relax`` and ``screen``, jobflow, Ray, reports.
"""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass, replace
from typing import Protocol

from deeprelax_ase.errors import (
    BrokenStructureError,
    ConstraintError,
    DeepRelaxError,
    ModelError,
    StructureError,
    StructureFileError,
    UncertainPredictionError,
)
from deeprelax_ase.prediction.display import expected_errors
from deeprelax_ase.prediction.status import ACCEPTED, FAILED, REFUSED, UNCERTAIN, UNCHANGED
from deeprelax_ase.uncertainty.calibration import CalibratedError
from deeprelax_ase.uncertainty.worsening import MAX_ODDS_WORSE

#: Treatments of an uncertain prediction. It is handed out, marked; handed out with a warning; the crystal is left as
#: it was, marked; it is finished under a calculator; it is an error.
KEEP, WARN, SKIP, FINISH, RAISE = ON_UNCERTAIN = ("keep", "warn", "skip", "finish", "raise")

#: Treatments that need no calculator.
WITHOUT_CALCULATOR = (KEEP, WARN, SKIP, RAISE)


#: Å. Where nine in ten crystals like it end nearer than this, it does not matter whether it began a little nearer.
NEGLIGIBLE = 0.005

#: What differs between reasons of one kind: numbers, also in lists, and remarks at the end that not all of them have.
_NUMBERS = re.compile(r"\[?(?<![\w.-])[-+]?\d([\w.+-]*\w)?(, *[-+]?\d([\w.+-]*\w)?)*%?\]?")
_REMARKS = re.compile(r", (novelty|judged as) .*$")

_UNLIKE = "the crystal is unlike those that the model knows"


@dataclass(frozen=True)
class TrustLimits:
    """Limits that a prediction has to meet.

    Attributes:
        max_error: Å, the largest expected error of the coordinates; None for no limit.
        max_volume_error: relative, the largest expected error of the volume; None for no limit. Where the cell is kept,
            the volume is not off.
        max_uncertainty: Å, the largest :attr:`~deeprelax_ase.Uncertainty.total`; None for no limit.
        max_odds_worse: the largest probability that the prediction ends further from the minimum than the crystal
            began; None for no limit. By default one that leaves, of each kind, at most one in twenty expected to: the
            odds of kinds of which more do count more, see
            :attr:`~deeprelax_ase.uncertainty.CalibratedError.odds_judged`. Models that do not know it are let off, and
            crystals that end within :data:`NEGLIGIBLE` of their minimum.
        ood: whether a crystal unlike those that the model knows (out of distribution) is trusted all the same.

    Raises:
        ValueError: a limit is negative, or no number, or ``max_odds_worse`` no probability.
    """

    max_error: float | None = None
    max_volume_error: float | None = None
    max_uncertainty: float | None = None
    max_odds_worse: float | None = MAX_ODDS_WORSE
    ood: bool = False

    def __post_init__(self) -> None:
        units = {"max_error": "a length in Å", "max_volume_error": "a fraction", "max_uncertainty": "a length in Å"}
        units["max_odds_worse"] = "a probability"
        for name, unit in units.items():
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name}={value} must be {unit}, math.inf or None for no limit")
        if self.max_odds_worse is not None and 1 < self.max_odds_worse < math.inf:
            raise ValueError(f"max_odds_worse={self.max_odds_worse} must be a probability, such as 0.1 for 10 %")

    def check(self, model: str, *, calibrated: bool) -> None:
        """Refuse limits of errors that a ``model`` does not know.

        Raises:
            ModelError: its errors are not ``calibrated``.
        """
        limited = [name for name in ("max_error", "max_volume_error") if getattr(self, name) is not None]
        if limited and not calibrated:
            raise ModelError(
                f"{model} has no calibrated errors to hold against {' and '.join(limited)}, or not with so many "
                "recycles and members: leave it out, or set max_uncertainty"
            )


@dataclass(frozen=True)
class Judgement:
    """Judgement of a prediction.

    Attributes:
        status: ``"accepted"``, ``"unchanged"`` or ``"uncertain"``; of a crystal that nothing is predicted of,
            ``"refused"`` or ``"failed"``.
        reason: one line; empty where it is accepted.
    """

    status: str
    reason: str = ""

    @property
    def uncertain(self) -> bool:
        """Whether there is a prediction that is not to be trusted."""
        return self.status == UNCERTAIN

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}" if self.reason else self.status


class _Total(Protocol):
    @property
    def total(self) -> float: ...


class Judged(Protocol):
    """Facts that a prediction is judged by: a :class:`~deeprelax_ase.Prediction` has all of them."""

    @property
    def model(self) -> str:
        """Name of the model."""

    @property
    def error(self) -> CalibratedError | None:
        """The calibrated errors."""

    @property
    def uncertainty(self) -> _Total:
        """The uncertainty, in total in Å."""

    @property
    def solver_converged(self) -> bool:
        """Whether the geometry solver came to rest."""

    @property
    def unchanged(self) -> str:
        """Reason why the crystal was left as it was; empty where it was not."""

    @property
    def doubt(self) -> str:
        """Reason to doubt the prediction by the crystal's geometry alone; empty where there is none."""


def judge(made: Judged | Exception, limits: TrustLimits | None = None) -> Judgement:
    """Judge a prediction, or the error in its place.

    A crystal that was left as it was may be uncertain too: where it is unlike those that the model knows, its expected
    error does not tell that it is relaxed.

    Args:
        made: the prediction, or why there is none.
        limits: of a trusted prediction; by default the crystal must be like those that the model knows, and
            unlikely to end further from its minimum.

    Raises:
        ModelError: an error is limited, and the model's are not calibrated.
    """
    if isinstance(made, Exception):
        known = isinstance(made, DeepRelaxError)
        reason = str(made) if known else f"{type(made).__name__}: {made}"
        return Judgement(REFUSED if is_refusal(made) else FAILED, " ".join(reason.split()))
    limits = limits or TrustLimits()
    if reason := _doubt(made, limits):
        return Judgement(UNCERTAIN, reason)
    if made.unchanged:
        return Judgement(UNCHANGED, made.unchanged)
    if made.error is not None and likely_worse(made.error, limits.max_odds_worse):
        odds = f"the odds are {made.error.odds_worse:.0%} that it ends further from its minimum than it began"
        alone = likely_worse(replace(made.error, odds_margin=1.0), limits.max_odds_worse)
        more = "" if alone else f", judged as {made.error.odds_judged:.0%} by the margin of its kind"
        return Judgement(UNCERTAIN, odds + more)
    return Judgement(ACCEPTED)


def likely_worse(error: CalibratedError, most: float | None) -> bool:
    """Whether the odds that it ends further from its minimum than it began are above ``most``, and that matters.

    The odds do not matter where the bound of the coordinates is below :data:`NEGLIGIBLE`.
    """
    if most is None or error.odds_judged is None or error.coordinates_bound < NEGLIGIBLE:
        return False
    return not error.odds_judged <= most


def kind_of_reason(reason: str) -> str:
    """A ``reason`` without numbers that differ from crystal to crystal, so that those of one kind count together."""
    return _NUMBERS.sub("…", _REMARKS.sub("", reason))


def is_refusal(error: Exception) -> bool:
    """Whether ``error`` tells of a crystal that was read, and that nothing is predicted of."""
    unread = isinstance(error, StructureFileError | BrokenStructureError)
    return isinstance(error, StructureError | ConstraintError) and not unread


def _doubt(made: Judged, limits: TrustLimits) -> str:
    """Return the reason not to trust a prediction, or an empty one. An error that is not a number exceeds any limit."""
    error, uncertainty = made.error, made.uncertainty.total
    if not made.solver_converged:
        return "the geometry solver did not come to rest"
    if limits.max_uncertainty is not None and not uncertainty <= limits.max_uncertainty:
        return f"its uncertainty {uncertainty:.3g} Å is above max_uncertainty={limits.max_uncertainty:g} Å"
    if made.doubt and not limits.ood:
        return f"{_UNLIKE}: {made.doubt}"
    if error is None:
        limits.check(made.model, calibrated=False)
        return ""
    if error.ood and not limits.ood:
        novelty = f", novelty {error.novelty:.2f}" if (error.novelty or 0.0) > 1 else ""  # else it is not the reason
        return f"{_UNLIKE}{novelty}"
    if limits.max_error is not None and not error.coordinates <= limits.max_error:
        return f"its expected error {error.coordinates:.3f} Å is above max_error={limits.max_error:g} Å"
    if limits.max_volume_error is not None and error.volume is not None and not error.volume <= limits.max_volume_error:
        return f"its expected volume error {error.volume:.1%} is above max_volume_error={limits.max_volume_error:g}"
    return ""


def check_on_uncertain(on_uncertain: str, *, allowed: tuple[str, ...] = ON_UNCERTAIN) -> None:
    """Refuse words that say nothing of what comes of an uncertain prediction.

    Raises:
        ValueError: names those that do.
    """
    if on_uncertain not in allowed:
        raise ValueError(f"{on_uncertain=} must be one of {allowed}")


def announce(judgement: Judgement, on_uncertain: str, *, of: str, error: CalibratedError | None) -> None:
    """Say of an uncertain prediction what the caller wants to hear of it; of others nothing.

    Args:
        judgement: of it.
        on_uncertain: one of :data:`ON_UNCERTAIN`; ``"warn"`` and ``"raise"`` are heard.
        of: its subject: ``"the prediction"``, or the name of the crystal.
        error: its expected errors.

    Raises:
        UncertainPredictionError: that is what is wanted.
    """
    if not judgement.uncertain or on_uncertain not in (WARN, RAISE):
        return
    told = "" if error is None else f" ({expected_errors(error)})"
    text = f"{of} is uncertain: {judgement.reason}{told}. Finish it under a calculator, which can tell."
    if on_uncertain == RAISE:
        raise UncertainPredictionError(text)
    warnings.warn(text, stacklevel=3)
