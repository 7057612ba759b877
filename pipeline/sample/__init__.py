"""Sampling with a policy, a plan or a configuration, beside reference samples."""
