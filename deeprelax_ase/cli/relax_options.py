"""The options of ``relax`` and ``screen``, declared once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints

from deeprelax_ase.cli.common import errors, stop
from deeprelax_ase.cli.options import (
    FINISH,
    FMAX,
    STEPS,
    CalculatorName,
    ConstantVolume,
    Device,
    DeviceOption,
    Finish,
    Fmax,
    Mask,
    MaxError,
    MaxOddsWorse,
    MaxUncertainty,
    MaxVolumeError,
    Members,
    ModelName,
    OneShot,
    OneShotOption,
    OnUncertain,
    OnUncertainOption,
    Pressure,
    Rattle,
    Recycles,
    RelaxCell,
    Restart,
    Seed,
    Steps,
    Symmetry,
)
from deeprelax_ase.io.constraints import IN_BATCHES
from deeprelax_ase.prediction.allowed_strain import AllowedStrain, refuse_useless


@dataclass(frozen=True)
class Relaxing:
    """Options as they were given, see the help of each; None where nothing was."""

    model: ModelName = None
    max_error: MaxError = None
    max_volume_error: MaxVolumeError = None
    max_uncertainty: MaxUncertainty = None
    max_odds_worse: MaxOddsWorse = None
    on_uncertain: OnUncertainOption = None
    calculator: CalculatorName = "none"
    finish: Finish = None
    fmax: Fmax = None
    steps: Steps = None
    one_shot: OneShotOption = OneShot.DEFAULT
    recycles: Recycles = None
    members: Members = None
    device: DeviceOption = Device.AUTO
    relax_cell: RelaxCell = None
    mask: Mask = None
    constant_volume: ConstantVolume = False
    pressure: Pressure = None
    keep_symmetry: Symmetry = None
    rattle: Rattle = None
    seed: Seed = None
    restart: Restart = None

    @property
    def has_calculator(self) -> bool:
        """Whether a calculator finishes anything."""
        return self.calculator.lower() != "none"

    @property
    def cost(self) -> dict[str, Any]:
        """Options for the cost of a prediction: one_shot, and recycles and members where they were given."""
        given = {name: getattr(self, name) for name in ("recycles", "members")}
        return {"one_shot": self.one_shot.value} | {name: value for name, value in given.items() if value is not None}

    @property
    def limits(self) -> dict[str, Any]:
        """Limits of predictions, as arguments of :class:`~deeprelax_ase.prediction.judgement.TrustLimits`."""
        names = ("max_error", "max_volume_error", "max_uncertainty", "max_odds_worse")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def uncertain(self) -> OnUncertain:
        """Treatment of uncertain predictions."""
        return self.on_uncertain or OnUncertain.KEEP

    @property
    def finishing(self) -> dict[str, Any]:
        """Options for the finish under a calculator: fmax, steps, finish.

        Raises:
            ValueError: no relaxation would end at fmax.
        """
        from deeprelax_ase.optimizers.limits import check_fmax  # after the options are read

        fmax = FMAX if self.fmax is None else check_fmax(self.fmax)
        return {"fmax": fmax, "steps": self.steps or STEPS, "finish": self.finish or FINISH}

    @property
    def cell(self) -> bool | AllowedStrain | None:
        """The way in which cells may move.

        Raises:
            ConstraintError: the mask is none.
        """
        if self.mask is None and self.pressure is None and not self.constant_volume:
            return self.relax_cell
        from ase.units import GPa

        mask = AllowedStrain().mask if self.mask is None else AllowedStrain.parse_mask(self.mask)
        return AllowedStrain(mask, constant_volume=self.constant_volume, pressure=(self.pressure or 0.0) * GPa)

    @property
    def start(self) -> dict[str, Any]:
        """Options for what is done to crystals before they are relaxed: rattle, seed."""
        return {"rattle": self.rattle or 0.0, "seed": self.seed or 0}

    @property
    def finishes_all(self) -> bool:
        """Whether a calculator finishes every crystal, by more than the jump."""
        jump_alone = (self.finish or FINISH).lower() == "none"
        return self.has_calculator and self.uncertain is not OnUncertain.FINISH and not jump_alone

    def refuse_contradictions(self) -> None:
        """End with advice where options have no use beside the others: nothing is passed over in silence."""
        finishing = any(value is not None for value in (self.finish, self.fmax, self.steps))
        if not self.has_calculator and finishing:
            stop("--finish, --fmax and --steps say how to finish under a calculator; give one with --calculator.")
        if not self.has_calculator and self.on_uncertain is OnUncertain.FINISH:
            stop("--on-uncertain finish needs a calculator; give one with --calculator.")
        if self.relax_cell is False and (self.mask or self.pressure or self.constant_volume):
            stop("--fixed-cell keeps cells as they are: leave out --mask, --pressure and --constant-volume, or it.")
        if self.seed is not None and not self.rattle:
            stop("--seed is that of --rattle, which is not given.")
        if self.restart is not None and not self.has_calculator:
            stop("--restart keeps what a finish under a calculator needs to go on; give one with --calculator.")
        chosen = self.on_uncertain is not None or self.limits
        if self.has_calculator and chosen and self.on_uncertain is not OnUncertain.FINISH:
            stop(
                "Under a calculator every crystal is finished, and limits and --on-uncertain have no use. Add "
                "--on-uncertain finish to finish the uncertain ones alone."
            )
        rattle = self.rattle or 0.0
        try:
            refuse_useless(self.cell, keep_symmetry=self.keep_symmetry, rattle=rattle, finishes_all=self.finishes_all)
        except ValueError as error:
            stop(str(error))


def relaxing(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` as typer takes it: an option for each field of :class:`Relaxing` in the place of its ``how``."""
    hints = get_type_hints(Relaxing, include_extras=True)
    shared = [
        Parameter(f.name, Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name]) for f in fields(Relaxing)
    ]
    parameters: list[Parameter] = []
    for parameter in signature(command, eval_str=True).parameters.values():
        own = [parameter.replace(kind=Parameter.KEYWORD_ONLY)]
        parameters += shared if parameter.annotation is Relaxing else own

    @wraps(command)
    def run(**given: Any) -> None:
        how = Relaxing(**{option.name: given.pop(option.name) for option in shared})
        how.refuse_contradictions()
        command(how=how, **given)

    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def goes_in_batches(how: Relaxing, potential: Any, *, quiet: bool = False) -> bool:
    """Whether many crystals are finished together under ``potential``; says which option keeps them from it."""
    from deeprelax_ase.optimizers.batched.finish import pays_in_batches

    pays = pays_in_batches(potential, how.finish or FINISH)
    if pays and how.restart is not None and not quiet:
        told = f"--restart finishes crystals one by one, which {potential.name} would finish in batches"
        errors().print(f"Note: {told}", soft_wrap=True)
    return pays and how.restart is None


def tell_one_by_one(crystals: int) -> None:
    """Say on standard error how many ``crystals`` of a run in batches were finished one by one, unless none was."""
    if crystals:
        were = "1 crystal was" if crystals == 1 else f"{crystals:,} crystals were"
        told = f"{were} finished one by one, as batches keep no other constraints than {', '.join(IN_BATCHES)}"
        errors().print(f"Note: {told}", soft_wrap=True)


def tell_level(how: Relaxing, calculator: Any, *, quiet: bool = False) -> None:
    """Say on standard error that no model has learnt the calculator's minima, where that is so and none was named."""
    from deeprelax_ase.calculators.identity import level_note

    if how.model is None and not quiet and (note := level_note(calculator)) is not None:
        errors().print(f"Note: {note}", soft_wrap=True)
