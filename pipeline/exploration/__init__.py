"""Randomised reuse decisions: designs, distributions of gaps, the plan of a collection.

A design is a function of `gap_distributions.py` and a name in `designs.py`.
"""
