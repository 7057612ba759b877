"""Checks of a cluster before a job: versions, storage, tracking, accelerators.

A check is a function in `checks.py` that `run.py` calls.
"""
