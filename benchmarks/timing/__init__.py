"""Reuse on the clock, beside its bounds: no Ray, no MLflow."""
