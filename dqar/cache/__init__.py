"""Cached tensors: quantised entries, their histories and forecasts, kernels."""
