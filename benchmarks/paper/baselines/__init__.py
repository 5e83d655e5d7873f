"""What the paper compares with, on our own blocks: networks that predict coordinates and cell directly.

The Dummy, which returns the unrelaxed crystal, needs no network.
"""

from __future__ import annotations

from baselines.direct import DirectConfig, DirectTask

#: Shape of each, by its name in the tables; the first two have about as many parameters as the paper's network.
_CONFIGS = {
    "PaiNN": DirectConfig("PaiNN", num_layers=5),
    "EGNN": DirectConfig("EGNN", num_layers=9),
    "Cryslator": DirectConfig("Cryslator"),
    "PaiNN-Cartesian": DirectConfig("PaiNN", frame="cartesian"),
    "EGNN-Cartesian": DirectConfig("EGNN", frame="cartesian"),
}

#: Configuration and task of each, by its name in the tables.
BASELINES = {name: (config, DirectTask) for name, config in _CONFIGS.items()}
