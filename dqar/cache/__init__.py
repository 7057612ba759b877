"""The cache: quantised values, their divided differences and forecasts, and fast kernels."""
