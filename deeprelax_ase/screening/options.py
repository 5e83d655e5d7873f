"""How crystals are relaxed in a screening; what a folder of results says of itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from deeprelax_ase.models.registry import DEFAULT_MODEL
from deeprelax_ase.prediction.judgement import TrustLimits

if TYPE_CHECKING:
    from deeprelax_ase.prediction.predictor import Predictor


@dataclass(frozen=True)
class RelaxOptions:
    """How to relax each crystal.

    Attributes:
        model: name of a shipped model, or path of a card.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``auto``.
        dtype: ``float32`` or ``float64``, in which the network computes.
        recycles: how often the network is applied, each time to what it predicted; the model's own number by default.
        members: how many networks of the ensemble are asked; all by default.
        relax_cell: see :meth:`~deeprelax_ase.Predictor.predict`.
        find_symmetry: see :class:`~deeprelax_ase.Predictor`; without it a crystal takes 1 to 3 ms less.
        atoms_per_batch: see :meth:`~deeprelax_ase.Predictor.predict_many`.
        compile: see :class:`~deeprelax_ase.Predictor`.
        max_uncertainty: Å, predictions whose ``deeprelax_uncertainty`` is larger count as uncertain.
        max_error: Å, those count so too whose expected error of the coordinates is larger, or outside of what the model
            knows; for models whose errors are calibrated.
        finish: calculator under which what is uncertain is finished, by name; ``none`` leaves it as it is predicted.
        fmax: eV/Å, largest force there when finished.
        steps: most steps there.

    Raises:
        ValueError: a calculator is to finish what is uncertain, and nothing says what is.
    """

    model: str = DEFAULT_MODEL
    device: str = "auto"
    dtype: str = "float32"
    recycles: int | None = None
    members: int | None = None
    relax_cell: bool | None = None
    find_symmetry: bool = True
    atoms_per_batch: int | None = None
    compile: bool = False
    max_uncertainty: float | None = None
    max_error: float | None = None
    finish: str = "none"
    fmax: float = 0.05
    steps: int = 500

    def __post_init__(self) -> None:
        if self.finish != "none" and self.max_uncertainty is None and self.max_error is None:
            raise ValueError(
                f"finish={self.finish!r} finishes what is uncertain: say what is, with max_uncertainty or max_error"
            )

    def predictor(self) -> Predictor:
        """What makes the predictions.

        Raises:
            ModelError, DeviceError: see :class:`~deeprelax_ase.Predictor`.
        """
        from deeprelax_ase.prediction.predictor import Predictor

        return Predictor(
            self.model,
            device=self.device,
            dtype=self.dtype,
            recycles=self.recycles,
            members=self.members,
            find_symmetry=self.find_symmetry,
            compile=self.compile,
        )

    def limits(self) -> TrustLimits:
        """What a prediction has to meet, or else is uncertain."""
        return TrustLimits(self.max_error, self.max_uncertainty, ood=self.max_error is None)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RelaxOptions:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: of another version.
        """
        if unknown := set(values) - {field.name for field in fields(cls)}:
            raise ValueError(f"these options are not of this version of deeprelax_ase: {sorted(unknown)}")
        return cls(**values)
