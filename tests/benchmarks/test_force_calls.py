"""What benchmarks/force_calls.py makes of relaxations that were kept."""

from __future__ import annotations

import json
from pathlib import Path

import counted_relaxations
import force_calls
import pytest
from ase.build import bulk

from deeprelax_ase import Crystal


def kept(file: Path, *crystals: str, calls: tuple[int, int]) -> None:
    """Write relaxations by BFGS without and with the jump."""
    runs = [
        {
            "crystal": name,
            "finish": "bfgs",
            "model": model,
            "reached": {"0.05": {"calls": n, "seconds": 1, "energy": -1}},
        }
        for name in crystals
        for model, n in zip(("", "DeepRelax-PBE"), calls, strict=True)
    ]
    header = {"potential": "gpaw", "fmaxes": [0.05], "max_steps": counted_relaxations.MAX_STEPS, "settings": {}}
    lines = [header | {"options": counted_relaxations.OPTIONS}, *runs]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.mark.usefixtures("shipped")
def test_a_run_that_was_stopped_tells_of_what_it_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silicon = Crystal.from_atoms(bulk("Si"))
    monkeypatch.setattr(force_calls, "choose_cheap", lambda *_: {"one": silicon, "two": silicon})
    cache, out = tmp_path / "runs.jsonl", tmp_path / "out.json"
    kept(cache, "two", calls=(20, 5))
    given = [
        "pairs.npz",
        "--potential",
        "gpaw",
        "--finish",
        "bfgs",
        "fire",
        "--fmax",
        "0.05",
        "--model",
        "DeepRelax-PBE",
    ]
    monkeypatch.setattr(
        "sys.argv", ["force_calls.py", *given, "--kept-only", "--calls-only", "--cache", str(cache), "--json", str(out)]
    )
    force_calls.main()
    figures = json.loads(out.read_text(encoding="utf-8"))["figures"]["0.05"]
    assert set(figures) == {"bfgs"}  # FIRE has relaxed none
    assert figures["bfgs"]["crystals"] == 1
    assert figures["bfgs"]["ratio_of_means"]["calls"] == 0.25


def test_relaxations_are_kept_as_they_end_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silicon = Crystal.from_atoms(bulk("Si"))
    plain, jump = (counted_relaxations.Task("one", "bfgs", model) for model in ("", "network"))
    made, weights, stopped = [], {"": "", "network": "first"}, True

    def relax(task: counted_relaxations.Task, *_: object, **__: object) -> counted_relaxations.Run:
        if task.model and stopped:
            raise RuntimeError("stopped")
        made.append(task)
        return counted_relaxations.Run(*task, weights=weights[task.model])

    monkeypatch.setattr(counted_relaxations, "relax", relax)
    monkeypatch.setattr(counted_relaxations, "weights_of", weights.get)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tasks = {plain: silicon, jump: silicon}
    how = {"workers": 0, "potential": "gpaw", "fmaxes": [0.05], "journal": tmp_path / "runs.jsonl"}
    assert "stopped" in str(counted_relaxations.relax_all(tasks, settings={}, **how)[jump].error)
    stopped = False
    counted_relaxations.relax_all(tasks, settings={}, **how)
    assert made == [plain, jump]
    weights["network"] = "second"
    assert counted_relaxations.relax_all(tasks, settings={}, **how)[jump].weights == "second"
    assert made == [plain, jump, jump]  # jumps by other weights are others
    with pytest.raises(ValueError, match="another --cache"):
        counted_relaxations.relax_all(tasks, settings={"force_informed_steps": 1}, **how)
