"""The options of ``relax`` and ``screen``, declared once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Any, get_type_hints

from deeprelax_ase.cli import options as opt
from deeprelax_ase.cli.common import errors, stop
from deeprelax_ase.io.constraints import IN_BATCHES
from deeprelax_ase.prediction.allowed_strain import AllowedStrain

if TYPE_CHECKING:
    from deeprelax_ase.screening.options import RelaxOptions

#: What says together how cells may move.
_OF_THE_CELL = ("mask", "constant_volume", "pressure")


@dataclass(frozen=True)
class Relaxing:
    """Options as they were given, see the help of each; None where nothing was."""

    model: opt.ModelName = None
    max_error: opt.MaxError = None
    max_volume_error: opt.MaxVolumeError = None
    max_uncertainty: opt.MaxUncertainty = None
    max_odds_worse: opt.MaxOddsWorse = None
    on_uncertain: opt.OnUncertainOption = None
    calculator: opt.CalculatorName = "none"
    finish: opt.Finish = None
    fmax: opt.Fmax = None
    steps: opt.Steps = None
    one_shot: opt.OneShotOption = opt.OneShot.DEFAULT
    recycles: opt.Recycles = None
    members: opt.Members = None
    device: opt.DeviceOption = opt.Device.AUTO
    relax_cell: opt.RelaxCell = None
    mask: opt.Mask = None
    constant_volume: opt.ConstantVolume = False
    pressure: opt.Pressure = None
    keep_symmetry: opt.Symmetry = None
    rattle: opt.Rattle = None
    seed: opt.Seed = None
    restart: opt.Restart = None

    def options(self, **more: Any) -> RelaxOptions:
        """These as a screening records them, with ``more`` of its own.

        Raises:
            ValueError: they make no sense, or contradict each other.
        """
        from deeprelax_ase.screening.options import NONE, RelaxOptions  # after the options are read

        own = {f.name: getattr(self, f.name) for f in fields(self)} | {"relax_cell": self._cell()}
        given = {name: value for name, value in own.items() if value is not None and name not in _OF_THE_CELL}
        given = {name: str(value) if isinstance(value, str) else value for name, value in given.items()}
        for name in ("calculator", "finish"):
            if given.get(name, "").lower() == NONE:
                given[name] = NONE
        return RelaxOptions(**given, **more)

    def _cell(self) -> bool | AllowedStrain | None:
        """The way in which cells may move.

        Raises:
            ConstraintError: the mask is none.
        """
        if self.mask is None and self.pressure is None and not self.constant_volume:
            return self.relax_cell
        from ase.units import GPa

        mask = AllowedStrain().mask if self.mask is None else AllowedStrain.parse_mask(self.mask)
        return AllowedStrain(mask, constant_volume=self.constant_volume, pressure=(self.pressure or 0.0) * GPa)

    def refuse_contradictions(self) -> None:
        """End with advice where options have no use beside the others: nothing is passed over in silence."""
        has_calculator = self.calculator.lower() != "none"
        if not has_calculator and any(value is not None for value in (self.finish, self.fmax, self.steps)):
            stop("--finish, --fmax and --steps say how to finish under a calculator; give one with --calculator.")
        if self.relax_cell is False and (self.mask or self.pressure or self.constant_volume):
            stop("--fixed-cell keeps cells as they are: leave out --mask, --pressure and --constant-volume, or it.")
        if self.seed is not None and not self.rattle:
            stop("--seed is that of --rattle, which is not given.")
        limits = (self.max_error, self.max_volume_error, self.max_uncertainty, self.max_odds_worse)
        chosen = any(value is not None for value in (self.on_uncertain, *limits))
        if has_calculator and chosen and self.on_uncertain is not opt.OnUncertain.FINISH:
            stop(
                "Under a calculator every crystal is finished, and limits and --on-uncertain have no use. Add "
                "--on-uncertain finish to finish the uncertain ones alone."
            )
        try:
            self.options()
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


def goes_in_batches(options: RelaxOptions, potential: Any, *, quiet: bool = False) -> bool:
    """Whether many crystals are finished together under ``potential``; says which option keeps them from it."""
    from deeprelax_ase.optimizers.batched.finish import pays_in_batches

    pays = pays_in_batches(potential, options.finish)
    if pays and options.restart is not None and not quiet:
        told = f"--restart finishes crystals one by one, which {potential.name} would finish in batches"
        errors().print(f"Note: {told}", soft_wrap=True)
    return pays and options.restart is None


def tell_one_by_one(crystals: int) -> None:
    """Say on standard error how many ``crystals`` of a run in batches were finished one by one, unless none was."""
    if crystals:
        were = "1 crystal was" if crystals == 1 else f"{crystals:,} crystals were"
        told = f"{were} finished one by one, as batches keep no other constraints than {', '.join(IN_BATCHES)}"
        errors().print(f"Note: {told}", soft_wrap=True)


def tell_level(options: RelaxOptions, calculator: Any, *, quiet: bool = False) -> None:
    """Say on standard error that no model has learnt the calculator's minima, where that is so and none was named."""
    from deeprelax_ase.calculators.identity import level_note

    if options.model is None and not quiet and (note := level_note(calculator)) is not None:
        errors().print(f"Note: {note}", soft_wrap=True)
