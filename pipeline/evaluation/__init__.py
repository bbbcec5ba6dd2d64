"""Metrics, intervals, comparisons, the report."""
