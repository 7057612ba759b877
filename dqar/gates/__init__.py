"""Gates: pure rules that decide, for each site of a step, between reuse and computation.

A class of ``rules.py`` is the pattern for a new gate.
"""
