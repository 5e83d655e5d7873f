"""A process that holds a model: it is asked through a pipe of its own, answers, and may die of what it is asked."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any

from deeprelax_ase.errors import DeepRelaxError, DeviceError, StructureError
from deeprelax_ase.prediction.slots import WorkerSlot, claim_device, open_gpu

#: Makes the work of a process, from the device that it uses. The work is then called with each question.
Make = Callable[[str], Callable[[Any], Any]]


class WorkerDied(Exception):
    """The process ended before it answered."""


class ItemError(Exception):
    """The question cannot be answered, by the fault of an item in it as far as one can tell; says why."""


def is_of_an_item(error: Exception) -> bool:
    """Whether an item may be at fault of ``error``: not where the system, or what was asked for, is."""
    known = isinstance(error, DeepRelaxError) and not isinstance(error, StructureError)
    return not known and not isinstance(error, OSError)


class WorkerProcess:
    """A process of its own, which starts at once and answers one question after the other.

    It ends with this process, however that ends, and leaves Ctrl-C to it. Nothing that it shares with other workers can
    be left locked, or half written, when it is killed.

    Args:
        make: makes what answers the questions; is sent to the process by pickle.
        slot: its place among the processes of a pool.
    """

    def __init__(self, make: Make, slot: WorkerSlot) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA and torch's threads do not survive a fork
        self._pipe, theirs = context.Pipe()
        packed = bytes(ForkingPickler.dumps(make))
        self._process = context.Process(target=_serve, args=(theirs, packed, slot), name=f"worker {slot.number}")
        self._process.start()
        theirs.close()  # so that the pipe ends with the process

    def wait_until_ready(self) -> None:
        """Return once the process can be asked.

        Raises:
            WorkerDied: it died before.
            Exception: what ``make`` raised.
        """
        self._answer()

    def ask(self, question: bytes) -> Any:
        """The answer to a question that was packed by :func:`pack`.

        Raises:
            WorkerDied: of this question, or of something else in the meantime; or its device is lost to it.
            ItemError: it cannot be unpacked there, or answering raised an error that nobody has foreseen.
            DeepRelaxError, OSError: what the answering raised, and no structure is at fault of.
        """
        try:
            self._pipe.send_bytes(question)
        except OSError as error:
            raise WorkerDied from error
        try:
            return self._answer()
        except DeviceError as error:
            raise WorkerDied from error
        except (WorkerDied, ItemError):
            raise
        except Exception as error:  # whatever structures make libraries raise
            if not is_of_an_item(error):
                raise
            raise ItemError(f"{type(error).__name__}: {error}") from error

    def terminate(self) -> None:
        """Have the process end, without waiting for it."""
        self._process.terminate()

    def end(self) -> None:
        """End the process at once; whoever waits for an answer gets none."""
        self.terminate()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _answer(self) -> Any:
        try:
            if self._pipe not in wait([self._pipe, self._process.sentinel]):
                raise WorkerDied
            good, answer = pickle.loads(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            raise WorkerDied from error
        if good:
            return answer
        raise answer


def pack(question: Any) -> bytes:
    """A question as bytes.

    Raises:
        ItemError: it holds what cannot be sent to another process.
    """
    try:
        return bytes(ForkingPickler.dumps(question))
    except Exception as error:  # whatever the objects raise
        raise _not_sent(error) from error


def _not_sent(error: Exception) -> ItemError:
    return ItemError(f"it cannot be sent to another process ({type(error).__name__}: {error})")


# -- in the process


def _serve(pipe: Connection, packed: bytes, slot: WorkerSlot) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process says what Ctrl-C means
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threading.Thread(target=_open_gpu, args=(slot,), daemon=True).start()
    made: list[Callable[[Any], Any]] = []
    gc.disable()  # what is imported and made stays: each search for garbage in it would take some tenths of a second
    ready = _answered(lambda: made.append(pickle.loads(packed)(claim_device(slot))))
    gc.freeze()
    gc.enable()
    pipe.send_bytes(ready)
    while made:
        try:
            question = pipe.recv_bytes()
        except EOFError:
            return
        pipe.send_bytes(_answered(partial(_work, made[0], question)))


def _work(work: Callable[[Any], Any], question: bytes) -> Any:
    try:
        items = pickle.loads(question)
    except Exception as error:
        raise _not_sent(error) from error
    return work(items)


def _open_gpu(slot: WorkerSlot) -> None:
    with suppress(Exception):  # who claims the device is told
        open_gpu(slot)


def _end_with_parent() -> None:
    """End this process when its parent ends: then there is nobody to work for."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answered(work: Callable[[], Any]) -> bytes:
    """Pack the result of ``work``, or the exception that it raises. What ends the process is not caught."""
    try:
        return bytes(ForkingPickler.dumps((True, work())))
    except Exception as error:
        error.add_note(f"in a worker process:\n{traceback.format_exc()}")
        try:
            pickle.loads(told := bytes(ForkingPickler.dumps((False, error))))
        except Exception:  # exceptions of other libraries may not come through
            told = bytes(ForkingPickler.dumps((False, RuntimeError(f"{type(error).__name__}: {error}"))))
        return told
