"""``one_shot``: how much a prediction may cost, as a preset of ``recycles`` and ``members``."""

from __future__ import annotations

#: The model as its card has it; or one recycle of one network.
DEFAULT, FAST = ONE_SHOT = ("default", "fast")


def one_shot_options(
    one_shot: str, recycles: int | None = None, members: int | None = None
) -> tuple[int | None, int | None]:
    """The recycles and members of the preset ``one_shot``, but for those that are given; None for all of the card's.

    Raises:
        ValueError: there is no such preset.
    """
    if one_shot not in ONE_SHOT:
        raise ValueError(f"{one_shot=} must be one of {ONE_SHOT}")
    preset = 1 if one_shot == FAST else None
    return preset if recycles is None else recycles, preset if members is None else members
