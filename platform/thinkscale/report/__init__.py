"""Metrics, statistics, plots and the report page."""
