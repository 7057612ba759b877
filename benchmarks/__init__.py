"""Benchmarks of run time (``timing``), final errors (``quality``), pipeline (``distributed``)."""
