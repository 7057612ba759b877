"""Table of the operating points as a file that MLflow's page shows as a table."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

POINTS = "points.json"
"""Name of the file in a results folder."""
LOGGED_TABLES = "mlflow.loggedArtifacts"
"""Tag of a run that names the artifacts which MLflow's page shows as tables."""
COLUMNS = (
    *("method", "operating_point", "flops_ratio", "reuse_ratio", "latent_rel_l2"),
    *("latent_rel_l2_p90", "latent_rel_l2_worst", "psnr", "ssim", "fid", "speedup"),
    *("calibration_trajectories", "tuning_evaluations", "solution_rel_l2"),
)
"""Columns of the table, of results.json."""


def write_points(rows: list[dict[str, Any]], folder: Path) -> None:
    """Write the table into a results folder, in the layout of ``mlflow.log_table``."""
    data = [[_finite(row.get(name)) for name in COLUMNS] for row in rows]
    text = json.dumps({"columns": COLUMNS, "data": data}, allow_nan=False)
    (folder / POINTS).write_text(text + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    """Return None for NaN and infinities, which a browser's JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
