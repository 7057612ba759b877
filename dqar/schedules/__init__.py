"""Static plans: exported from gates that read no measurements, and stored as JSON files."""
