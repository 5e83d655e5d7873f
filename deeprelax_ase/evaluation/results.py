"""The results of a benchmark as a JSON file, with the environment that they were measured in."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import deeprelax_ase
from deeprelax_ase.io.placing import placed


def environment() -> dict[str, str]:
    """Versions and hardware, as JSON can hold them, without anything that names the machine."""
    packages = {}
    for name in ("ase", "matgl", "dgl", "gpaw", "numpy", "pymatgen", "scipy", "spglib", "torch-sim-atomistic"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "absent"
    return {
        "deeprelax_ase": deeprelax_ase.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **packages,
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write ``content``; an interrupted call leaves the old file whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with placed(file) as part:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _processor() -> str:
    """Return the model of the processor where Linux tells it, or its kind."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.machine()
