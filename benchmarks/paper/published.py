"""The figures of arXiv:2404.00865, tables 1 to 4 and figure 5, for pages that set ours beside them.

Mean absolute errors of coordinates, bond lengths and lattice in Å, of the volume in Å³, match rate in per cent.
"""

from __future__ import annotations

#: Columns of the tables, by the names of our metrics.
COLUMNS = ("cartesian", "bond_length", "lattice", "volume", "match")

TABLES: dict[str, dict[str, tuple[float | None, ...]]] = {
    "table 1, X-Mn-O": {
        "Dummy": (0.314, 0.429, 0.221, 32.8, 64.8),
        "PaiNN": (0.159, 0.175, 0.066, 3.8, 81.2),
        "EGNN": (0.166, 0.189, 0.066, 4.2, 77.5),
        "Cryslator": (0.127, None, None, 6.2, 83.7),
        "DeepRelax": (0.116, 0.136, 0.063, 3.4, 84.7),
    },
    "table 2, Materials Project": {
        "Dummy": (0.095, 0.112, 0.072, 27.0),
        "PaiNN": (0.088, 0.082, 0.043, 9.3),
        "EGNN": (0.086, 0.086, 0.043, 9.3),
        "DeepRelax": (0.066, 0.094, 0.041, 9.6),
    },
    "table 3, C2DB": {
        "Dummy": (0.268, 0.400, 0.142, 149.6),
        "PaiNN": (0.226, 0.283, 0.086, 61.9),
        "EGNN": (0.232, 0.311, 0.089, 67.9),
        "DeepRelax": (0.196, 0.268, 0.085, 60.2),
        "DeepRelaxT": (0.185, 0.165, 0.082, 56.7),
    },
    "table 4, X-Mn-O": {
        "Dummy": (0.314, 0.429, 0.221, 32.839),
        "Vanilla": (0.155, 0.170, 0.063, 3.478),
        "DeepRelaxP": (0.121, 0.147, 0.063, 3.563),
        "DeepRelaxU": (0.142, 0.171, 0.064, 3.539),
        "DeepRelax": (0.116, 0.136, 0.063, 3.442),
    },
}

#: Spearman's rank correlation of global uncertainty and distance error, figure 5.
CORRELATIONS = {"xmno": 0.95, "universal": 0.83, "monolayers": 0.88}
