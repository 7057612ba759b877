"""``python -m benchmarks.speed``, the short address of :mod:`benchmarks.timing.speed`."""

from benchmarks.timing.speed import main

if __name__ == "__main__":
    main()
