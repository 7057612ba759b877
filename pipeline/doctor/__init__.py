"""Checks of a cluster before a job: versions, storage, tracking, accelerators.

A check is a function of `checks.py`, called in `run.py`.
"""
