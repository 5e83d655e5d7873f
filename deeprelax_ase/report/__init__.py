"""Reports on many crystals: a page to look at, and figures for papers."""

from deeprelax_ase.report.outcome import Outcome, outcome_of
from deeprelax_ase.report.page import write_report

__all__ = ["Outcome", "outcome_of", "write_report"]
