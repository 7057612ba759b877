"""The plant: traces collected on a Ray cluster, policies trained on them, methods compared."""
