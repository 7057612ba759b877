"""Models by name: loading, image metrics, noise by key, the shipped digits model and its training.

A diffusers class to serve goes into `loading.py`; an image metric into `image_metrics.py`.
"""
