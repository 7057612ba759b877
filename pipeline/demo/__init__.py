"""The demonstration: a Ray head and an MLflow server on this machine, and three submitted jobs."""
