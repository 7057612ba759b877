"""Families of diffusers transformers, one file each: ``FAMILIES`` holds them by class name.

A file that is added here is found without being named anywhere else.
"""
