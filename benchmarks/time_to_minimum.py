"""How long a crystal takes to come near a potential's minimum: by one shot, by a jump and a finish, by iteration.

DEEPRELAX_M3GNET=path/to/M3GNet-MP-2021.2.8-PES python benchmarks/time_to_minimum.py pairs_universal.npz \\
    pairs_generated_[d-g].npz --each 50 --json benchmarks/results/time_to_minimum-M3GNet-cuda.json

With ``--device cpu --threads 1 --every 10 --few 4`` for one thread of a processor, and with ``--potential
nequix_torch_sim:nequix --model DeepRelax-PBE`` under Nequix, see nequix_torch_sim.py.

The minima are those that FIRE finds from the relaxed crystals of the pairs, to ``MINIMUM`` eV/Å. Every method starts
from the unrelaxed crystals, with the cells that :class:`~deeprelax_ase.DeepRelaxOptimizer` moves by default. Times are
of one process, from crystals in memory to crystals in memory; a few crystals are relaxed before, untimed. Results are
written after each method, so that an interrupted run keeps what it has.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from shared import options

from deeprelax_ase import Crystal, DeepRelaxOptimizer, Predictor
from deeprelax_ase.calculators import get_batched, potential_name
from deeprelax_ase.calculators.batched import BatchedPotential
from deeprelax_ase.calculators.batched_ase import PotentialCalculator
from deeprelax_ase.calculators.counting import CallCounter
from deeprelax_ase.data import RelaxationPairs, crystals_of, load_pairs
from deeprelax_ase.data.pairs import concatenate
from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.evaluation.baselines import Limits
from deeprelax_ase.evaluation.metrics import crystal_errors, geometry_of
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.labelling.relaxer import evaluated
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.registry import M3GNET_RELAX_MODEL, card_file_of
from deeprelax_ase.optimizers.batched.finish import finish_in_batches
from deeprelax_ase.optimizers.batched.relaxation import relax_in_batches
from deeprelax_ase.optimizers.batched.start import BatchedStart
from deeprelax_ase.optimizers.checked_atoms import CheckedAtoms, look_together
from deeprelax_ase.optimizers.degrees_of_freedom import degrees_of_freedom
from deeprelax_ase.optimizers.finish import resolve_finish
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.prediction.status import CONVERGED

#: eV/Å, to which minima are relaxed; and those to which the methods relax, all of them and some.
MINIMUM, LAST, EARLY = 0.01, 0.05, 0.1
#: Shares of the crystals whose times are told.
SHARES = (0.5, 0.9, 0.99)
#: eV/atom, within which an energy is that of the minimum, and within which it is near.
SAME, NEAR = 0.001, 0.025
#: Crystals that each method relaxes before it is timed, and most steps of that.
WARM_UP = 3


class Case(NamedTuple):
    """A crystal to relax.

    Attributes:
        crystal: unrelaxed.
        minimum: relaxed from the label.
        energy: eV/atom, there.
    """

    crystal: Crystal
    minimum: Crystal
    energy: float


@dataclass
class Ends:
    """What a method made of some crystals.

    Attributes:
        crystals: as they end; as they began where nothing could be made of them.
        calls: of the potential, all together; None where there is none.
        converged: how many.
        times: s, after the beginning, when each was done; empty where that is not known.
        begun: s, of these until crystals relaxed side by side, jumps behind them; None where that is not told.
    """

    crystals: list[Crystal]
    calls: float | None = None
    converged: int = 0
    times: list[float] = field(default_factory=list)
    begun: float | None = None


#: Relaxes crystals; and makes such, of the limits of the relaxation.
Method = Callable[[list[Case]], Ends]
Maker = Callable[[Limits], Method]


def evenly(length: int, wanted: int) -> list[int]:
    """Places in a list of this ``length``, as many as are ``wanted`` or there are, evenly spaced."""
    return np.linspace(0, length - 1, min(wanted, length)).round().astype(int).tolist()


def choose(files: Sequence[Path], each: int | None, every: int) -> RelaxationPairs:
    """Test crystals: of every kind so many, evenly spaced, and of those every so many."""
    pairs = concatenate([load_pairs(file).in_split("test") for file in files])
    chosen = []
    for kind in pairs.kind.unique():
        own = (pairs.kind == kind).nonzero().squeeze(1)
        chosen.append(own[torch.tensor(evenly(len(own), each or len(own))[::every])])
    return pairs.take(torch.cat(chosen))


def starts_of(crystals: Sequence[Crystal], potential: BatchedPotential) -> list[BatchedStart | None]:
    """Crystals as they relax in batches, layers in their plane; None where no cell filter can say how one may move."""
    checked = [CheckedAtoms(crystal.to_atoms()) for crystal in crystals]
    look_together(checked, potential.device)
    dofs = [degrees_of_freedom(one.atoms, relax_cell=None, checked=one) for one in checked]
    return [
        BatchedStart(one.numbers, one.positions, one.cell, dof.cell) if dof.plane is None else None
        for one, dof in zip(crystals, dofs, strict=True)
    ]


def cases_of(pairs: RelaxationPairs, potential: BatchedPotential, steps: int) -> tuple[RelaxationPairs, list[Case]]:
    """The crystals whose minimum is found, with that as the relaxed crystal of their pair."""
    starts, labels = crystals_of(pairs, "initial"), crystals_of(pairs, "relaxed")
    begun = {place: start for place, start in enumerate(starts_of(starts, potential)) if start is not None}
    places = list(begun)
    near = [replace(begun[k], positions=labels[k].positions, cell=labels[k].cell) for k in places]
    cases: dict[int, Case] = {}
    for number, end in relax_in_batches(near, potential, fmax=MINIMUM, steps=steps):
        if end.converged and end.results is not None:
            place = places[number]
            minimum = starts[place].with_geometry(end.positions, end.cell)
            cases[place] = Case(starts[place], minimum, end.results.energy / len(minimum))
    if not cases:
        raise SystemExit(f"no crystal comes to {MINIMUM} eV/Å in {steps} steps: give more --steps")
    found = pairs.take(torch.tensor(sorted(cases)))
    fractional, cells = geometry_of([cases[k].minimum for k in sorted(cases)])
    return replace(found, fractional_relaxed=fractional, cell_relaxed=cells), [cases[k] for k in sorted(cases)]


def nothing(cases: list[Case]) -> Ends:
    """Leave crystals as they are."""
    return Ends([case.crystal for case in cases])


def one_shot(predictor: Predictor) -> Method:
    """Predict."""

    def relax(cases: list[Case]) -> Ends:
        made = predictor.predict_many([case.crystal for case in cases], bonds=False)
        found = zip(made, cases, strict=True)
        return Ends([p.relaxed if isinstance(p, Prediction) else case.crystal for p, case in found])

    return relax


def in_batches(optimizer: str, potential: BatchedPotential, limits: Limits) -> Method:
    """Relax side by side, without a jump."""

    def relax(cases: list[Case]) -> Ends:
        ends, begun = Ends([case.crystal for case in cases], 0), time.perf_counter()
        starts = [start for start in starts_of(ends.crystals, potential) if start is not None]  # all are some
        ends.begun = time.perf_counter() - begun
        for place, end in relax_in_batches(
            starts, potential, optimizer=optimizer, fmax=limits.fmax, steps=limits.steps
        ):
            ends.times.append(time.perf_counter() - begun)
            ends.calls, ends.converged = (ends.calls or 0) + end.calls, ends.converged + end.converged
            if end.error is None:
                ends.crystals[place] = cases[place].crystal.with_geometry(end.positions, end.cell)
        return ends

    return relax


def jump_in_batches(finish: str, predictor: Predictor, potential: BatchedPotential, limits: Limits) -> Method:
    """Jump, judge, and finish side by side."""

    def relax(cases: list[Case]) -> Ends:
        begun, rounds = time.perf_counter(), []
        given = [(case.crystal.to_atoms(), None) for case in cases]
        asked: dict[str, Any] = {"finish": finish, "fmax": limits.fmax, "steps": limits.steps}
        asked["observe"] = lambda left: rounds.append((time.perf_counter() - begun, left))
        made = finish_in_batches(given, predictor, potential, **asked)
        ends = Ends([case.crystal for case in cases], 0, begun=rounds[0][0] if rounds else None)
        for at, left in rounds:
            ends.times += [at] * (len(cases) - left - len(ends.times))
        ends.times += [at for at, _ in rounds[-1:]] * (len(cases) - len(ends.times))
        for place, found in enumerate(made):
            if not isinstance(found, Exception):
                result, atoms = found
                ends.crystals[place] = Crystal.of(atoms)
                ends.calls = (ends.calls or 0) + (result.force_calls or 0)
                ends.converged += result.status == CONVERGED
        return ends

    return relax


def one_by_one(finish: str, predictor: Predictor | None, potential: BatchedPotential, limits: Limits) -> Method:
    """Relax crystals one after the other, as ASE does; with the jump where there is a ``predictor``."""
    calculator = PotentialCalculator(potential)

    def relax(cases: list[Case]) -> Ends:
        ends = Ends([case.crystal for case in cases], 0)
        for place, case in enumerate(cases):
            atoms = case.crystal.to_atoms()
            atoms.calc = calculator
            with CallCounter(calculator) as counter, suppress(DeepRelaxError):  # a crystal that is refused
                if predictor is None:
                    target: Any = degrees_of_freedom(atoms, relax_cell=None).target
                    optimizer: Any = resolve_finish(finish)(target, logfile=None)
                else:
                    optimizer = DeepRelaxOptimizer(atoms, predictor=predictor, finish=finish, logfile=None)
                ends.converged += bool(optimizer.run(fmax=limits.fmax, steps=limits.steps))
                ends.crystals[place] = Crystal.of(atoms)
            ends.calls = (ends.calls or 0) + counter.calls
        return ends

    return relax


def of_torch_sim(name: str, potential: BatchedPotential, limits: Limits) -> Method:
    """Relax in batches with an optimizer of TorchSim's, all cells freely, under its own model or ours as one."""
    from torch_sim_model import SimModel

    from deeprelax_ase.calculators.torch_sim import TorchSimPotential
    from deeprelax_ase.evaluation.baselines import torch_sim_optimizer

    own = potential if isinstance(potential, TorchSimPotential) else TorchSimPotential(SimModel(potential))

    def relax(cases: list[Case]) -> Ends:
        relaxing = torch_sim_optimizer(own, limits, name=name, atoms_per_batch=max(8000, potential.atoms_at_once))
        made = relaxing([case.crystal for case in cases], lambda: None)
        return Ends(made.crystals, (made.calls or 0) * len(cases), round((made.converged or 0) * len(cases)))

    return relax


def methods(given: Namespace, potential: BatchedPotential) -> Iterator[tuple[str, float | None, str, Maker]]:
    """Name, fmax, which crystals (``all``, ``some`` or ``few``) and maker of each method."""
    predictors = {name: Predictor(given.model, device=given.device, one_shot=name) for name in ("fast", "default")}
    jumper = predictors["default"]
    yield "nothing", None, "all", lambda limits: nothing
    for name, predictor in predictors.items():
        shot = one_shot(predictor)
        yield f"one shot, {name}", None, "all", lambda limits, shot=shot: shot
    yield "quick jump, fast", LAST, "all", partial(jump_in_batches, "fast", predictors["fast"], potential)
    for finish in ("fast", "fire"):
        yield f"jump, {finish}", LAST, "all", partial(jump_in_batches, finish, jumper, potential)
        yield finish, LAST, "all", partial(in_batches, finish, potential)
    for name in ("fire", "lbfgs") if given.torch_sim else ():
        yield f"TorchSim's {name}", LAST, "some", partial(of_torch_sim, name, potential)
    for finish, chosen in (("fire", None), ("fast", jumper)) if given.few else ():
        name = f"{'jump, ' if chosen else ''}{finish}, one by one"
        yield name, LAST, "few", partial(one_by_one, finish, chosen, potential)
    yield "jump, fast", EARLY, "all", partial(jump_in_batches, "fast", jumper, potential)
    yield "fire", EARLY, "all", partial(in_batches, "fire", potential)


def energies_of(crystals: Sequence[Crystal], potential: BatchedPotential) -> np.ndarray:
    """(n,) eV/atom."""
    found = zip(crystals, evaluated(crystals, potential), strict=True)
    return np.array([np.nan if isinstance(one, Exception) else one.energy / len(crystal) for crystal, one in found])


def row(
    ends: Ends, seconds: float, pairs: RelaxationPairs, cases: list[Case], potential: BatchedPotential
) -> dict[str, Any]:
    """What is told of a method."""
    energies = energies_of(ends.crystals, potential) - [case.energy for case in cases]
    lost = ~np.isfinite(energies)
    errors = crystal_errors(pairs, ends.crystals)
    coordinates = errors["coordinates"]
    told: dict[str, Any] = {"crystals": len(cases), "seconds": seconds / len(cases)}
    if ends.begun is not None:
        told["begun"] = ends.begun / len(cases)
    if ends.times:
        told["done"] = {f"{share:g}": float(np.quantile(ends.times, share)) / len(cases) for share in SHARES}
    if ends.calls is not None:
        told |= {"calls": ends.calls / len(cases), "converged": ends.converged / len(cases)}
    return told | {
        "coordinates": {"mean": float(coordinates.mean()), "median": float(np.median(coordinates))},
        "relative volume": float(errors["relative_volume"].mean()),
        "energy": {"mean": float(energies[~lost].mean()), "median": float(np.median(energies[~lost]))},
        "above": float(np.clip(energies[~lost], 0, None).mean()),
        "same": float((np.abs(energies) <= SAME).mean()),
        "near": float((energies <= NEAR).mean()),
        "without energy": int(lost.sum()),
    }


def main() -> None:
    """Measure, and write JSON."""
    given = options(
        __doc__,
        *("data", "--model", "--each", "--every", "--device", "--json"),
        model={"default": M3GNET_RELAX_MODEL},
        every={"help": "of these take every N-th (default all)"},
        potential={"default": "m3gnet", "help": "as get_batched takes it (default %(default)s)"},
        some={"type": int, "help": "crystals that TorchSim's optimizers relax (default all)"},
        few={"type": int, "default": 5, "help": "crystals relaxed one by one (default %(default)s)"},
        steps={"type": int, "default": 500, "help": "most steps (default %(default)s)"},
        threads={"type": int, "help": "of the processor (default: all)"},
        busy={"action": "store_true", "help": "tell the processor's time of the process, where others use the machine"},
        torch_sim={"action": "store_true", "help": "TorchSim's optimizers too"},
        only={"nargs": "+", "help": "names of methods (default all)"},
    ).parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    clock = time.process_time if given.busy else time.perf_counter
    potential = get_batched(given.potential, device=given.device)
    chosen = choose(given.data, given.each, given.every)
    begun = time.perf_counter()
    pairs, cases = cases_of(chosen, potential, given.steps)
    print(f"minima of {len(cases)} of {len(chosen)} crystals: {time.perf_counter() - begun:.1f} s", flush=True)
    counts = {"all": len(cases), "some": given.some or len(cases), "few": given.few}
    index = {which: evenly(len(cases), count) for which, count in counts.items()}
    facts = {"environment": environment(), "device": str(potential.device)}
    facts["potential"] = potential_name(potential) or potential.name
    card = ModelCard.read(card_file_of(given.model))
    facts |= {"model": card.name, "weights": card.sha256}
    facts |= {"chosen": len(chosen), "crystals": len(cases), "atoms": int(pairs.counts.sum()), "busy": given.busy}
    rows: list[dict[str, Any]] = []
    for name, fmax, which, make in methods(given, potential):
        if given.only and name not in given.only:
            continue
        told = {"method": name, "fmax": fmax, "which": which}
        try:
            here, limits = [cases[k] for k in index[which]], Limits(fmax or LAST, given.steps)
            make(replace(limits, steps=WARM_UP))(here[:WARM_UP])
            method, begun = make(limits), clock()
            ends = method(here)
            seconds = clock() - begun
            ends.times *= not given.busy
            told |= row(ends, seconds, pairs.take(torch.tensor(index[which])), here, potential)
        except Exception as error:  # whatever libraries raise costs one row
            told |= {"failed": f"{type(error).__name__}: {error}"}
        print(told, flush=True)
        rows.append(told)
        write_json(given.json, {**facts, "minimum": MINIMUM, "steps": given.steps, "rows": rows})


if __name__ == "__main__":
    main()
