"""Training: a damage model fitted on traces, and the schedules planned with it."""
