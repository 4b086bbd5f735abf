"""Metrics and benchmarks, each with the rows that would expose a cheat."""
