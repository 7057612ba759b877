"""Run time of reuse beside its upper bounds; needs neither Ray nor MLflow."""
