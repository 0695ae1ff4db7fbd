"""Reports of results: an HTML page, tables for the terminal, a model card. Reads results only."""

from equipoise.report.card import model_card
from equipoise.report.html import write_report
from equipoise.report.table import results_table

__all__ = ["model_card", "results_table", "write_report"]
