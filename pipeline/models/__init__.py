"""Models by name: loading, image metrics, noise by key, the shipped digits model and its training.

To support another diffusers class, change `loading.py`; to add an image metric, `image_metrics.py`.
"""
