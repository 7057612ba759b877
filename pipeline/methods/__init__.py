"""Methods that an evaluation compares, one file each.

Copy `interval.py` for a fixed schedule, `smoothcache.py` for one with a calibration of its own, and
add a line to `registry.py`.
"""
