"""Collection of traces: driver, workers, unit size, quarantine, and columns of the tables."""
