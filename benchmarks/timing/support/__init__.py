"""Models to time, interleaved rounds, medians with their intervals."""
