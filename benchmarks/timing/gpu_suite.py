"""Everything that is to be measured on a GPU, in bf16: one command, taken up where it stopped.

    python -m benchmarks.timing.gpu_suite                      # on the GPU machine
    python -m benchmarks.timing.gpu_suite --prove /tmp/proof   # the same jobs, tiny, on a CPU

Needs torch, diffusers with what it imports, safetensors and jaxtyping; no Ray, no MLflow, no
weights. Further flags are those of :mod:`benchmarks.timing.suite`. Results go to
``benchmarks/results/DEVICE/``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.timing import suite

ON_GPU = (
    *("--device", "cuda", "--models", "dit-xl-2-256", "dit-xl-2-512", "pixart-sigma"),
    *("--batches", "4", "16", "1", "64", "--kinds", *suite.KINDS),
    *("--budget", "120"),
)
PROOF = (
    *("--device", "cpu", "--models", "tiny-dit", "tiny-pixart", "--batches", "1", "2"),
    *("--kinds", *suite.KINDS, "--budget", "5", "--quick"),
)


def flags_of(argv: Sequence[str]) -> list[str]:
    """The series' flags: the GPU's, or those of a proof; what is given comes last and counts."""
    if argv and argv[0] == "--prove":
        return [*PROOF, *([] if len(argv) < 2 else ["--out", argv[1], *argv[2:]])]
    return [*ON_GPU, *argv]


def main(argv: Sequence[str] | None = None) -> None:
    suite.main(flags_of(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    main()
