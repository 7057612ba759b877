"""How a pipeline guides: which calls of its transformer belong to one step, and to which branch."""
