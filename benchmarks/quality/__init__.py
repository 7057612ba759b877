"""Errors of methods and policies over several noise seeds, with their tables and plots."""
