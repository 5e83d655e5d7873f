"""How near predictions come to relaxed crystals: metrics, assessment, calibration, baselines."""
