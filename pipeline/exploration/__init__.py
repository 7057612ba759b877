"""Randomised reuse decisions: exploration designs, gap distributions, the plan of a collection.

To add a design, write a function in `gap_distributions.py` and a name in `designs.py`.
"""
