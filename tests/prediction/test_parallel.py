"""A function of many items in processes: in order, lazily, and an item that kills its process costs itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from deeprelax_ase.errors import ModelError, WorkerError
from deeprelax_ase.prediction.parallel import map_in_processes
from tests.prediction.deadly_items import complain, die, has_no_torch, make_nothing, squares, throw


def told(number: int, reason: str) -> str:
    return f"item {number}: {reason}"


@pytest.mark.parametrize("workers", [0, 2])
def test_in_order_and_an_error_costs_its_item(workers: int) -> None:
    items: list[Any] = [*range(5), complain, *range(3)]
    made = list(map_in_processes(squares, items, failed=told, workers=workers, chunk=3))
    assert made == [0, 1, 4, 9, 16, "item 5: ValueError: it is odd", 0, 1, 4]


def test_an_item_that_kills_its_process_costs_itself() -> None:
    first, killed, last = map_in_processes(squares, [2, die, 3], failed=told, workers=1, chunk=3)
    assert (first, last) == (4, 9)
    assert str(killed).startswith("item 1: the process that had this crystal was killed")


def test_it_is_an_error_that_names_the_item_unless_something_is_to_come_of_it() -> None:
    with pytest.raises(WorkerError, match="item 2 cannot be worked at: the process that had this crystal was killed"):
        list(map_in_processes(squares, [1, 2, die], workers=1, chunk=2))
    with pytest.raises(WorkerError, match="item 1 cannot be worked at: ValueError: it is odd"):
        list(map_in_processes(squares, [1, complain], workers=0))


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_that_no_item_is_at_fault_of_are_raised(workers: int) -> None:
    with pytest.raises(ModelError, match="no such model"):
        list(map_in_processes(squares, [partial(throw, ModelError("no such model"))], failed=told, workers=workers))
    with pytest.raises(ValueError, match="no cpu here"):
        list(map_in_processes(make_nothing, [1], failed=told, workers=workers, device="cpu"))


def test_items_are_read_as_they_are_needed() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            read.append(number)
            yield number

    results = map_in_processes(squares, items(), workers=1, chunk=2)
    assert not read
    assert next(results) == 0
    assert len(read) <= 6


@pytest.mark.parametrize(("device", "free"), [("", True), ("cpu", False)])
def test_torch_is_loaded_where_something_is_computed_on_a_device(device: str, free: bool) -> None:
    """By several processes, which are to compute in one thread each."""
    item: Callable[[str], bool] = has_no_torch
    assert list(map_in_processes(squares, [item], workers=2, device=device)) == [free]
