"""Gates: pure rules that decide between reuse and computation.

Copy a class of `rules.py` for a new gate.
"""
