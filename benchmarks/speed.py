"""Alias of :mod:`benchmarks.timing.speed` for ``python -m benchmarks.speed``."""

from benchmarks.timing.speed import main

if __name__ == "__main__":
    main()
