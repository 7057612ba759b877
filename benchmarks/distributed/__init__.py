"""Collections under faults, dispatch rate of the driver, memory of training."""
