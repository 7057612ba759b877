"""Benchmarks: `timing/` on the clock, `quality/` of final errors, `distributed/` of the plant."""
