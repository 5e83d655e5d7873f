"""Options of the relaxations in a screening; a folder of results records them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from deeprelax_ase.models.card import DEFAULT, one_shot_options
from deeprelax_ase.models.registry import DEFAULT_MODEL
from deeprelax_ase.optimizers.limits import check_fmax
from deeprelax_ase.prediction.allowed_strain import AllowedStrain, RelaxCell, checked_relax_cell, refuse_useless
from deeprelax_ase.prediction.judgement import FINISH, KEEP, WARN, TrustLimits, check_on_uncertain
from deeprelax_ase.prediction.status import UNCERTAIN
from deeprelax_ase.uncertainty.worsening import MAX_ODDS_WORSE

if TYPE_CHECKING:
    from deeprelax_ase.calculators.batched import BatchedPotential
    from deeprelax_ase.prediction.predictor import Predictor

#: No calculator, or no optimizer.
NONE = "none"


@dataclass(frozen=True)
class RelaxOptions:
    """Options of the relaxation of each crystal.

    Attributes:
        model: name of a shipped model, or path of a card; None for the one that jumps nearest to the minima of the
            calculator, see :func:`~deeprelax_ase.calculators.model_for`.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``auto``.
        dtype: ``float32`` or ``float64``, in which the network computes.
        one_shot, recycles, members: how much a prediction may cost, see :class:`~deeprelax_ase.Predictor`.
        relax_cell: see :meth:`~deeprelax_ase.Predictor.predict`; an :class:`~deeprelax_ase.AllowedStrain` says how
            cells may move, and under which pressure a calculator finishes.
        keep_symmetry: see :class:`~deeprelax_ase.Predictor`; with True a finish keeps the space group too.
        rattle: Å, by which starts are displaced at random, see :func:`~deeprelax_ase.prediction.rattle.rattled`.
        seed: of that.
        restart: folder for what interrupted finishes need to be gone on with; None for none.
        atoms_per_batch: see :meth:`~deeprelax_ase.Predictor.predict_many`.
        compile: see :class:`~deeprelax_ase.Predictor`.
        max_error: Å, predictions whose expected error of the coordinates is larger are uncertain, as those are of
            crystals unlike the ones that the model knows; for models whose errors are calibrated.
        max_volume_error: the same of the volume, as a fraction.
        max_uncertainty: Å, those are uncertain too whose ``deeprelax_uncertainty`` is larger.
        max_odds_worse: and those that are likelier than that to end further from the minimum than they began; None
            for no limit.
        on_uncertain: treatment of them: ``keep`` hands them out, marked; ``warn`` does so with a warning; ``skip``
            leaves the crystal as it was, marked; ``finish`` finishes them under the calculator; ``raise`` yields an
            error, where predictions are yielded.
        calculator: by name, see :func:`~deeprelax_ase.calculators.get_calculator`; ``none`` for none. It finishes every
            crystal, or with ``on_uncertain="finish"`` the uncertain ones alone.
        finish: optimizer that finishes, by its name in ASE, or ``fast``; ``none`` for the jump alone.
        fmax: eV/Å, largest force when finished.
        steps: most steps for each crystal.

    Raises:
        ValueError: an unknown word, a limit that makes no sense, or options that contradict each other.
    """

    model: str | None = None
    device: str = "auto"
    dtype: str = "float32"
    one_shot: str = DEFAULT
    recycles: int | None = None
    members: int | None = None
    relax_cell: RelaxCell = None
    keep_symmetry: bool | None = None
    rattle: float = 0.0
    seed: int = 0
    restart: str | None = None
    atoms_per_batch: int | None = None
    compile: bool = False
    max_error: float | None = None
    max_volume_error: float | None = None
    max_uncertainty: float | None = None
    max_odds_worse: float | None = MAX_ODDS_WORSE
    on_uncertain: str = KEEP
    calculator: str = NONE
    finish: str = "fire"
    fmax: float = 0.05
    steps: int = 500

    def __post_init__(self) -> None:
        given: Any = self.relax_cell
        cell = AllowedStrain(**given) if isinstance(given, dict) else checked_relax_cell(given)  # that of a document
        object.__setattr__(self, "relax_cell", cell)
        self.limits()  # says what is wrong with them
        check_on_uncertain(self.on_uncertain)
        one_shot_options(self.one_shot)
        check_fmax(self.fmax)
        if self.on_uncertain == FINISH and self.calculator == NONE:
            raise ValueError(f"on_uncertain={FINISH!r} needs a calculator; give one with calculator=…")
        if self.on_uncertain not in (KEEP, FINISH) and self.calculator != NONE:
            raise ValueError(
                f"calculator={self.calculator!r} finishes every crystal, uncertain or not: leave "
                f"on_uncertain={self.on_uncertain!r} out, or choose {FINISH!r} to finish the uncertain ones alone"
            )

        refuse_useless(
            self.relax_cell,
            keep_symmetry=self.keep_symmetry,
            rattle=self.rattle,
            finishes_all=self.finishes_all and self.finish != NONE,
        )
        if self.restart is not None and self.calculator == NONE:
            raise ValueError("restart=… keeps what a finish needs to be gone on with; give one with calculator=…")

    def predictor(self, calculator: Any = None) -> Predictor:
        """Load the predictor that these options ask for.

        Args:
            calculator: the one that these options name, if it is there already: the choice of a model may need it.

        Raises:
            CalculatorError: it cannot be made.
            ModelError: errors are limited that are not calibrated; also as :class:`~deeprelax_ase.Predictor`.
            DeviceError: see there.
        """
        from deeprelax_ase.prediction.predictor import Predictor

        predictor = Predictor(
            self.model or self._model_for(calculator),
            device=self.device,
            dtype=self.dtype,
            one_shot=self.one_shot,
            recycles=self.recycles,
            members=self.members,
            keep_symmetry=self.keep_symmetry,
            compile=self.compile,
        )
        self.limits().check(predictor.model_name, calibrated=predictor.calibration is not None)
        return predictor

    def _model_for(self, calculator: Any) -> str:
        """The model for the minima of the ``calculator``, which is made unless it is given."""
        if calculator is None:
            if (potential := self.potential()) is None:
                return DEFAULT_MODEL
            from deeprelax_ase.calculators.registry import calculator_of

            calculator = calculator_of(potential)
        from deeprelax_ase.calculators.identity import model_for

        return model_for(calculator)

    def potential(self) -> BatchedPotential | None:
        """Make the potential that finishes; None for none.

        Raises:
            CalculatorError: it cannot be made.
        """
        if self.calculator == NONE:
            return None
        from deeprelax_ase.calculators.registry import get_batched

        return get_batched(self.calculator, device=self.device)

    def finishing(self) -> dict[str, Any]:
        """Return the options of a finish, as :func:`~deeprelax_ase.optimizers.finish_atoms` takes them."""
        return {
            "fmax": self.fmax,
            "steps": self.steps,
            "finish": None if self.finish == NONE else self.finish,
            "relax_cell": self.relax_cell,
            "calculator_name": self.calculator,
            "keep_symmetry": bool(self.keep_symmetry),
        }

    def limits(self) -> TrustLimits:
        """Return the limits beyond which a prediction is uncertain."""
        return TrustLimits(self.max_error, self.max_volume_error, self.max_uncertainty, self.max_odds_worse)

    @property
    def finishes_all(self) -> bool:
        """Whether a calculator finishes every crystal."""
        return self.calculator != NONE and self.on_uncertain != FINISH

    def announce(self, statuses: Mapping[str, int]) -> None:
        """Warn of uncertain predictions among so many rows of each of the ``statuses``, if that is wanted."""
        if self.on_uncertain == WARN and (count := statuses.get(UNCERTAIN, 0)):
            told = f"{count:,} of {sum(statuses.values()):,} predictions are uncertain: their rows say why"
            warnings.warn(told, stacklevel=3)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        made = asdict(self)
        if isinstance(self.relax_cell, AllowedStrain):
            made["relax_cell"]["mask"] = list(self.relax_cell.mask)
        return made

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RelaxOptions:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: of another version.
        """
        if unknown := set(values) - {field.name for field in fields(cls)}:
            raise ValueError(f"these options are not of this version of deeprelax_ase: {sorted(unknown)}")
        return cls(**values)
