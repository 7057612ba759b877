"""Single readers of a dataset's gates, each with an open and a pass for itself."""

import tempfile
from pathlib import Path

from pipeline.traces.multi_dataset import open_traces
from pipeline.train.gate_accumulators import StalenessCounts, StepSnrs, scan_gates
from pipeline.train.local_error_sample import LocalErrorSampler
from pipeline.train.propensity_test import PropensitySums
from pipeline.train.reused_gate_writer import ReusedGateWriter


def store_reused_gates(uri, names, sites, folder):
    traces = open_traces(uri)
    with ReusedGateWriter(traces, names, sites, folder) as writer:
        scan_gates(traces, writer)
    return writer.stored()


def load_reused_gates(uri, names, sites):
    with tempfile.TemporaryDirectory() as folder:
        return store_reused_gates(uri, names, sites, Path(folder)).load()


def max_gap_of(uri):
    traces, counts = open_traces(uri), StalenessCounts()
    scan_gates(traces, counts)
    return counts.max_gap(traces)


def snrs_of(uri):
    snrs = StepSnrs()
    scan_gates(open_traces(uri), snrs)
    return snrs.snrs()


def check_propensities(uri):
    traces = open_traces(uri)
    sums = PropensitySums(traces)
    scan_gates(traces, sums)
    return sums.test()


def sample_local_errors(uri, chosen, names, sites, *, limit, seed=0):
    sampler = LocalErrorSampler(chosen, names, sites, limit=limit, seed=seed)
    scan_gates(open_traces(uri), sampler)
    with tempfile.TemporaryDirectory() as folder:
        return sampler.store(Path(folder) / "sample.npy").load()
