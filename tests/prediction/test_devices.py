"""Which device a name stands for."""

from __future__ import annotations

import pytest

from deeprelax_ase.errors import DeviceError
from deeprelax_ase.prediction.devices import is_gpu


def test_a_gpu_is_told_by_its_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [is_gpu(name) for name in ("auto", "cuda", "cuda:1", "cpu")] == [True, True, True, False]


@pytest.mark.parametrize("name", ["cuda:7", "gpu"])
def test_what_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(DeviceError, match=name):
        is_gpu(name)
