"""One pool: an item that kills its process costs itself, and whatever else dies costs time."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from deeprelax_ase.errors import DeviceError, ModelError, WorkerError
from tests.killing import Killer, descendants
from tests.prediction.deadly_items import (
    complain,
    die,
    die_once,
    identify,
    leave,
    make_dead,
    make_nothing,
    nap,
    noted,
    numbered,
    pool,
    throw,
)


def test_jobs_are_done_in_order_or_as_they_come() -> None:
    jobs = [[nap, 1], [2, 3], [], [4]]
    with pool(workers=2) as workers:
        assert list(workers.imap(numbered(*jobs), ordered=True)) == [
            (0, ["rested", 1]),
            (1, [4, 9]),
            (2, []),
            (3, [16]),
        ]
        assert next(workers.imap(numbered(*jobs)))[0] != 0


def test_processes_start_before_there_is_a_job() -> None:
    def there() -> set[int]:
        return {pid for pid, command in descendants().items() if "spawn_main" in command}

    with pool(workers=2) as workers:
        workers.start()
        until = time.monotonic() + 60
        while len(started := there()) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        assert len(started) == 2
        assert dict(workers.imap(numbered([1], [2], [3]))) == {0: [1], 1: [4], 2: [9]}
        assert there() == started


def test_what_prevents_a_start_is_told_when_there_is_a_job() -> None:
    with pool(make=make_dead) as workers:
        workers.start()
        with pytest.raises(WorkerError, match="die before they see any crystal"):
            list(workers.imap(numbered([1])))


def test_jobs_are_read_as_they_are_needed() -> None:
    read: list[int] = []

    def jobs() -> Iterator[tuple[int, list[int]]]:
        for number in range(50):
            read.append(number)
            yield number, [number]

    with pool() as workers:
        results = workers.imap(jobs(), ordered=True, ahead=3)
        assert not read
        next(results)
        assert len(read) == 3


def test_an_item_that_kills_costs_itself(tmp_path: Path) -> None:
    once = partial(die_once, tmp_path / "marker")
    with pool() as workers:
        made = dict(workers.imap(numbered([1, 2, 3], [4, die, 5], [once, 7], [Killer(), 8], [leave])))
    assert made[0] == [1, 4, 9]
    assert (made[1][0], *made[1][2:]) == (16, 25)
    assert made[2] == ["in the end", 49]
    for failed in (made[1][1], made[3][0], made[4][0]):
        assert "was killed" in failed
    assert made[3][1] == 64


def test_an_item_that_kills_is_found_in_few_processes(tmp_path: Path) -> None:
    started = tmp_path / "started"
    with pool(make=partial(noted, started)) as workers:
        ((_, made),) = workers.imap(numbered([*range(30), die, *range(31, 50)]))
    assert [n for n, value in enumerate(made) if value != n**2] == [30]
    assert len(started.read_text()) == 5  # of fifty, of seven, alone, alone once more; and one goes on


def test_what_cannot_be_sent_costs_itself() -> None:
    with pool() as workers:
        ((_, made),) = workers.imap(numbered([1, threading.Lock(), 2]))
    assert made[0::2] == [1, 4]
    assert made[1].startswith("failed: it cannot be sent to another process (TypeError")


def test_a_lost_job_does_not_wait_for_others_nor_they_for_it() -> None:
    """While one process is at the parts of a job, the other goes on."""
    with pool(workers=2) as workers:
        order = [key for key, _ in workers.imap(numbered([die, 1, 2], *([nap] for _ in range(6))), ahead=4)]
    assert order.index(0) > 0
    assert sorted(order) == list(range(7))


def test_an_error_costs_the_item_that_raises_it() -> None:
    with pool() as workers:
        ((_, made),) = workers.imap(numbered([1, complain, 2]))
    assert made == [1, "failed: ValueError: it is odd", 4]


@pytest.mark.parametrize("error", [OSError(28, "no space"), ModelError("no such model")])
def test_errors_that_no_item_is_at_fault_of_are_raised_here(error: Exception) -> None:
    with pool() as workers, pytest.raises(type(error), match="no s") as caught:
        list(workers.imap(numbered([partial(throw, error)])))
    assert "in throw" in caught.value.__notes__[0]


def test_a_process_that_loses_its_device_is_replaced() -> None:
    with pool() as workers:
        ((_, [first]),) = workers.imap(numbered([identify]))
        ((_, made),) = workers.imap(numbered([partial(throw, DeviceError("cuda:0 fails")), 2]))
        ((_, [second]),) = workers.imap(numbered([identify]))
    assert "was killed" in made[0]
    assert made[1] == 4
    assert second != first


def test_wrong_options_are_told() -> None:
    with pool(make=make_nothing, device="cpu") as workers, pytest.raises(ValueError, match="no cpu here"):
        list(workers.imap(numbered([1])))
    with pytest.raises(ValueError, match="at least 1"):
        pool(workers=0)


def test_processes_that_die_of_nothing_are_told_from_deadly_items() -> None:
    """As those of a script do that calls this where it is imported."""
    with pool(make=make_dead) as workers, pytest.raises(WorkerError, match="die before they see any"):
        list(workers.imap(numbered([1])))


def test_a_process_that_is_killed_while_it_waits_is_replaced() -> None:
    with pool() as workers:
        ((_, [first]),) = workers.imap(numbered([identify]))
        os.kill(first, signal.SIGKILL)
        ((_, [second]),) = workers.imap(numbered([identify]))
        assert second != first


def test_processes_end_with_the_pool_whatever_they_are_at() -> None:
    with pool(workers=2) as workers:
        stream = workers.imap(numbered(*([nap] for _ in range(8))))
        next(stream)
    assert not [command for command in descendants().values() if "spawn_main" in command]


def test_processes_end_with_a_pool_that_nobody_closes() -> None:
    workers = pool()
    ((_, [process]),) = workers.imap(numbered([identify]))
    del workers
    gc.collect()
    until = time.monotonic() + 10
    while "spawn_main" in descendants().get(process, ""):
        assert time.monotonic() < until
        time.sleep(0.05)


SCRIPT = """
import signal, sys, time
from tests.prediction.deadly_items import identify, nap, numbered, pool
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the shell ignores
    workers = pool()
    made = workers.imap(numbered([identify], [nap], [identify], [nap]), ordered=True)
    print(*(results[0] for _, results in made), flush=True)
    stream = workers.imap(numbered(*([nap] for _ in range(100))))
    next(stream)
    if sys.argv[1] == "wait":
        time.sleep(60)
"""


@pytest.mark.parametrize("end", ["kill", "interrupt", "leave"])
def test_processes_end_with_the_first_one(tmp_path: Path, end: str) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, tmp_path / "script.py", "leave" if end == "leave" else "wait"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as first:
        assert first.stdout is not None
        told = [word for word in first.stdout.readline().split() if word.isdecimal()]
        time.sleep(0.3)
        if end != "leave":
            first.send_signal(signal.SIGKILL if end == "kill" else signal.SIGINT)
        first.wait(30)
    until = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in told):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert told
