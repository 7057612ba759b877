"""The controller: the state of each cached entry, one step's decisions and their execution."""
