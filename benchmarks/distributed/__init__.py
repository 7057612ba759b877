"""Collections under faults, dispatch rate and memory of the plant."""
