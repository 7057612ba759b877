"""Evaluation: methods are calibrated and measured on workers, compared, and reported."""
