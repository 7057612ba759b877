"""The controller: state of the cached entries, decisions of a step, and their execution."""
