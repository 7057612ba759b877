"""Evaluation: calibration and measurement of operating points on workers, results and report."""
