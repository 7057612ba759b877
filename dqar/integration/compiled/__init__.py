"""Sampling by a static plan without a controller, on copies of the model that share its weights."""
