"""Static plans followed without a controller, by copies of the model that share its weights."""
