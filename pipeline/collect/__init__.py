"""Collection of traces: driver, workers, unit size, quarantine, and the columns that are written."""
