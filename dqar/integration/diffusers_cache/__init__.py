"""Reuse as a cache of diffusers: applied to a transformer alone, by diffusers' hooks."""
