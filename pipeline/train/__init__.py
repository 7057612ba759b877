"""Training: a damage model is fitted on traces, and schedules are planned with it."""
