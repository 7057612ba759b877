"""Description of the machine, and resident memory of a process."""

import torch

from pipeline.cluster.hardware import describe_machine, peak_resident_mb, resident_mb


def test_the_machine_is_described():
    machine = describe_machine("cpu")
    assert machine["cpu"]
    assert machine["gpu"] is None
    assert machine["cores"] >= 1
    assert machine["torch"] == torch.__version__
    assert machine["date"].endswith("+00:00")
    assert 0 < resident_mb() <= peak_resident_mb() + 1
