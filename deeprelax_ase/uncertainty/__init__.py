"""How far off predictions are: the scatter of an ensemble, and what calibration makes of it."""
