"""Fuzzing of the jobs: generated command lines, paths, model folders, documents and policies."""
