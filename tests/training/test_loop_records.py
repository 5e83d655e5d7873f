from __future__ import annotations

import csv
import logging
import math
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.nn import DeepRelaxConfig
from deeprelax_ase.training import AugmentationSettings, TrainingSettings, train
from tests.training.runs import CONFIG, PARTS, QUICK, records, summary, trained, values


def test_log_and_settings_tell_the_run(
    pairs: RelaxationPairs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    observed: list[dict] = []
    with caplog.at_level(logging.INFO, logger="deeprelax_ase.training"):
        train(pairs, CONFIG, QUICK, tmp_path, observe=observed.append)
    lines = records(tmp_path)
    assert observed == lines
    assert [record.args for record in caplog.records if record.name.endswith("loop")] == lines
    assert [line["step"] for line in lines] == [2, 4, 6]
    for line in lines:
        assert set(line["gradient_norm"]) == {"total", *PARTS}
        parts = [line["gradient_norm"][part] for part in PARTS]
        # Before the first change of the outputs, which start at zero, nothing reaches the backbone.
        assert min(parts) > 0 or line["step"] == 2
        assert line["gradient_norm"]["total"] == pytest.approx(math.hypot(*parts), abs=0.01)
        total = line["distance"] + line["displacement"] + 10 * line["lattice"]
        assert line["loss"] == pytest.approx(total, abs=2e-3)
        assert line["crystals_per_second"] > 0
    assert [line["progress"] for line in lines] == pytest.approx([1 / 7, 3 / 7, 5 / 7], abs=1e-4)
    assert [line["learning_rate"] for line in lines] == pytest.approx([QUICK.rate(step / 7) for step in (1, 3, 5)])
    told = summary(tmp_path)
    assert told["steps"] == 7
    assert DeepRelaxConfig.from_dict(told["config"]) == CONFIG
    augmentation = AugmentationSettings(**told["training"].pop("augmentation"))
    assert TrainingSettings(**told["training"], augmentation=augmentation) == QUICK


def test_figures_are_logged_as_columns(pairs: RelaxationPairs, tmp_path: Path) -> None:
    options = {"validation": pairs, "loggers": ["csv"]}
    for _ in range(3):  # each call has a file of its own
        assert train(pairs, CONFIG, QUICK, tmp_path, **options, deadline=0) is None
    trained(pairs, CONFIG, QUICK, tmp_path, **options)
    rows: list[dict[str, str]] = []
    for file in sorted(tmp_path.glob("csv/version_*/metrics.csv")):
        with file.open() as stream:
            rows += csv.DictReader(stream)
    for name, column in (("loss", "train loss"), ("learning_rate",) * 2, ("validation error",) * 2):
        found = [(int(row["step"]), float(row[column])) for row in rows if row.get(column)]
        told = [(record["step"], record[name]) for record in records(tmp_path) if name in record]
        assert [step for step, _ in found] == [step for step, _ in told], name
        assert [value for _, value in found] == pytest.approx([value for _, value in told], abs=1e-6), name
        assert len(found) == (4 if name.startswith("validation") else 3)


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_figures_are_logged_for_tensorboard(pairs: RelaxationPairs, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(pairs, CONFIG, QUICK, tmp_path, loggers=("tensorboard",))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = events.Scalars("train loss")
    assert [event.step for event in found] == values(tmp_path, "step") == [2, 4, 6]
    assert [event.value for event in found] == pytest.approx(values(tmp_path, "loss"), rel=1e-5)


def test_an_unknown_logger_is_refused(pairs: RelaxationPairs, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Unknown logger 'mlflow', must be one of \('csv', 'tensorboard', 'wandb'\)"):
        train(pairs, CONFIG, QUICK, tmp_path, loggers=["csv", "mlflow"])


def test_nothing_global_is_left_changed(pairs: RelaxationPairs, tmp_path: Path) -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.is_grad_enabled()
    train(pairs, CONFIG, QUICK, tmp_path)
    assert (torch.backends.cuda.matmul.allow_tf32, torch.is_grad_enabled()) == before
