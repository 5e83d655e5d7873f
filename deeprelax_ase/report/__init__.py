"""What became of many crystals, as a page to look at and as figures for papers."""

from deeprelax_ase.report.outcome import Outcome, outcome_of
from deeprelax_ase.report.page import write_report

__all__ = ["Outcome", "outcome_of", "write_report"]
