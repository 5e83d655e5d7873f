"""What a benchmark ran on, without anything that names the machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

import deeprelax_ase


def environment() -> dict[str, str]:
    """Versions and hardware, as JSON can hold them."""
    packages = {}
    for name in ("ase", "matgl", "dgl", "gpaw", "numpy", "spglib"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "absent"
    return {
        "deeprelax_ase": deeprelax_ase.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **packages,
        "processor": platform.machine(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
