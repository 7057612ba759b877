"""The DQAR paper's sweeps and ablations: evaluations over grids of gates."""
