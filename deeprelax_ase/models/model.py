"""A model: an ensemble of networks with its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deeprelax_ase.models.card import ModelCard

if TYPE_CHECKING:
    from torch import Tensor, nn

    from deeprelax_ase.nn import DeepRelax, DeepRelaxConfig, DeepRelaxE3, DeepRelaxE3Config
    from deeprelax_ase.nn.energy_head import EnergyHead


@dataclass(frozen=True, eq=False)
class Model:
    """An ensemble of networks with its card.

    Attributes:
        card: facts about it.
        networks: the members.
        novelty: tensors by name, see :class:`~deeprelax_ase.uncertainty.novelty.Novelty`; None where there are none.
        energy: reads the energy of the relaxed crystal off the first member; None where there is none.
    """

    card: ModelCard
    networks: nn.ModuleList
    novelty: Mapping[str, Tensor] | None = None
    energy: EnergyHead | None = None

    @property
    def config(self) -> DeepRelaxConfig | DeepRelaxE3Config:
        """The network's switches, which also say what graph it expects."""
        return network_of(self.card)[1]

    @property
    def level(self) -> int:
        """Index of the level of theory among those that the network knows."""
        return self.config.levels.index(self.card.level) if self.card.level else 0  # type: ignore[union-attr]


def model_of(networks: Sequence[DeepRelax | DeepRelaxE3], name: str, *, level: str = "", recycles: int = 1) -> Model:
    """The ensemble of ``networks`` as a model that is in no file: its card says no more than follows from them.

    Args:
        networks: members of one configuration.
        name: of the model.
        level: one of the network's levels of theory, where it knows several.
        recycles: see :class:`ModelCard`.
    """
    from torch import nn

    first = networks[0]
    card = ModelCard(
        name=name,
        description="",
        level_of_theory=level,
        training_data="",
        split="",
        elements=[],
        members=len(networks),
        parameters=sum(p.numel() for p in first.parameters()),
        config=first.config.to_dict(),
        sha256="",
        architecture=type(first).__name__,
        level=level,
        recycles=recycles,
    )
    return Model(card, nn.ModuleList(networks).eval().requires_grad_(False))


def network_of(card: ModelCard) -> tuple[type, Any]:
    """The class of the card's network, and its configuration."""
    from deeprelax_ase.nn import ARCHITECTURES

    if card.architecture not in ARCHITECTURES:
        raise ValueError(f"Unknown architecture {card.architecture!r}, must be one of {tuple(ARCHITECTURES)}")
    network, config = ARCHITECTURES[card.architecture]
    return network, config.from_dict(card.config)
