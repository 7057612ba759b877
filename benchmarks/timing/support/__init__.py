"""Models that are timed, interleaved rounds, medians with their intervals."""
