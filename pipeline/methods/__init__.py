"""Methods that an evaluation compares, one file for each method.

To add a method, copy `interval.py` (a fixed schedule) or `smoothcache.py` (a method that calibrates
itself), and add its class to `METHODS` in `registry.py`.
"""
