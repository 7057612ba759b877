"""The engine that patches any transformer of diffusers, as its family's description says."""
