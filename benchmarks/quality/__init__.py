"""Errors of methods and policies over seeds of noise, and tables and pictures of them."""
