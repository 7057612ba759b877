"""All benchmarks of a GPU in bf16; the same command continues an interrupted run.

    python -m benchmarks.timing.gpu_suite                      # on the GPU machine
    python -m benchmarks.timing.gpu_suite --prove /tmp/proof   # the same jobs, tiny, on a CPU

Needs torch, diffusers, safetensors and jaxtyping; neither Ray nor MLflow nor trained weights.
Further flags are those of :mod:`benchmarks.timing.suite`. Results go to
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
    """Flags of the suite: those of a GPU or of ``--prove``, then ``argv``, which overrides them."""
    if argv and argv[0] == "--prove":
        return [*PROOF, *([] if len(argv) < 2 else ["--out", argv[1], *argv[2:]])]
    return [*ON_GPU, *argv]


def main(argv: Sequence[str] | None = None) -> None:
    suite.main(flags_of(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    main()
