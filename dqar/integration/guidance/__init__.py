"""The guidance of a run: the calls of a transformer that belong to one step, and their branches."""
