"""Sweeps and ablations of the DQAR paper and talk, over grids of gates."""
