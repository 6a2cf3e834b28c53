"""Finished runs as tables: statistics, summaries, comparisons, views."""
