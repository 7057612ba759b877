"""Command-line flags as fields of dataclasses: names, values and help.

Without tyro, which :mod:`pipeline.cli` alone imports.
"""
