"""Static plans: made from gates that measure nothing, stored as JSON, read back."""
