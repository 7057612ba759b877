"""A folder or an object store behind the same few verbs.

A further kind of storage has the methods of `local_folder.py` and a line in `object_store.py`.
"""
