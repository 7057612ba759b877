"""Storage in a folder or an object store, with the same methods for both.

To add a kind of storage, write a class with the methods of `LocalFolder` (`local_folder.py`) and a
line in `object_store.py`.
"""
