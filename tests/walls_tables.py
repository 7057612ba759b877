"""Tables of the allowed imports, which :mod:`tests.test_walls` compares with the source."""

from __future__ import annotations

MAY_IMPORT: dict[str, str] = {
    # The library: records and pure functions, then gates and control, then the seam to diffusers.
    "dqar.finite_fields": "",
    "dqar.records": "",
    "dqar.signals": "",
    "dqar.snr": "",
    "dqar.layer_schedule": "",
    "dqar.step_schedule": "dqar.records",
    "dqar.cache": "dqar.records dqar.signals",
    "dqar.config": "dqar.cache dqar.layer_schedule dqar.records",
    "dqar.validation": "",
    "dqar.config_file": "dqar.config dqar.validation",
    "dqar.policy": "dqar.finite_fields dqar.records dqar.step_schedule dqar.validation",
    "dqar.gates": "dqar.config dqar.layer_schedule dqar.policy dqar.records",
    "dqar.control": "dqar.cache dqar.config dqar.gates dqar.policy dqar.records dqar.signals "
    "dqar.snr",
    "dqar.schedules": "dqar.cache dqar.config dqar.control dqar.gates dqar.records dqar.snr "
    "dqar.validation",
    "dqar.integration": "dqar.cache dqar.config dqar.control dqar.finite_fields dqar.policy "
    "dqar.records "
    "dqar.schedules dqar.signals dqar.snr",
    # The pipeline: shared packages, then the stages, which never import each other.
    "pipeline.redaction": "",
    "pipeline.errors": "pipeline.redaction",
    "pipeline.markdown": "",
    "pipeline.progress": "",
    "pipeline.statistics": "",
    "pipeline.flags": "pipeline.errors",
    "pipeline.tracking_flags": "",
    "pipeline.cli": "pipeline.errors pipeline.flags pipeline.redaction",
    "pipeline.storage": "dqar.validation pipeline.errors",
    "pipeline.tracking": "pipeline.errors pipeline.redaction pipeline.storage "
    "pipeline.tracking_flags",
    "pipeline.models": "dqar pipeline.errors pipeline.storage",
    "pipeline.cluster": "dqar.validation pipeline.errors pipeline.models pipeline.storage",
    "pipeline.exploration": "dqar pipeline.errors pipeline.models pipeline.storage",
    "pipeline.traces": "dqar pipeline.errors pipeline.exploration pipeline.models pipeline.storage",
    "pipeline.methods": "dqar pipeline.errors pipeline.models",
    "pipeline.collect": "dqar pipeline.cluster pipeline.errors pipeline.exploration "
    "pipeline.models pipeline.progress pipeline.redaction pipeline.storage pipeline.traces "
    "pipeline.tracking pipeline.tracking_flags",
    "pipeline.train": "dqar pipeline.errors pipeline.exploration pipeline.progress "
    "pipeline.storage pipeline.traces pipeline.tracking pipeline.tracking_flags",
    "pipeline.evaluate": "dqar pipeline.cluster pipeline.errors pipeline.markdown "
    "pipeline.methods pipeline.models pipeline.progress pipeline.statistics pipeline.storage "
    "pipeline.tracking pipeline.tracking_flags",
    "pipeline.sample": "dqar pipeline.cluster pipeline.errors pipeline.models pipeline.progress "
    "pipeline.tracking pipeline.tracking_flags",
    "pipeline.doctor": "pipeline.cluster pipeline.errors pipeline.models pipeline.redaction "
    "pipeline.storage pipeline.tracking",
    "pipeline.demo": "pipeline.errors pipeline.storage",
}
"""Packages that each package, or file outside a package, may import; ``dqar`` allows every package
of the library."""

ROOMS: dict[str, set[str]] = {
    "ray": {"pipeline/cluster/actor_pool.py", "pipeline/cluster/ray_cluster.py"},
    "mlflow": {"pipeline/tracking/connection.py", "pipeline/tracking/store.py"},
    "pyarrow": {"pipeline/traces/tables.py"},
    "obstore": {"pipeline/storage/object_store.py"},
    "tyro": {"pipeline/cli.py"},
    "tabulate": {"pipeline/markdown.py"},
    "diffusers": {
        "pipeline/models/loading.py",
        "pipeline/models/digits_pretrain.py",
        "pipeline/evaluate/sweeps/dummy_dit.py",
    },
    "sklearn": {
        "pipeline/methods/learned_gate.py",
        "pipeline/models/digits_data.py",
        "pipeline/train/validation.py",
    },
}
"""The only files of the pipeline that may import each heavy library."""

ONE_IMPORTER: dict[str, str] = {
    "entered by its job alone": "pipeline.collect.run pipeline.collect.unit_size "
    "pipeline.demo.run pipeline.doctor.run pipeline.evaluate.run pipeline.evaluate.sweeps.run "
    "pipeline.models.digits_pretrain pipeline.sample.flags pipeline.sample.run "
    "pipeline.train.run pipeline.collect.flags",
    "one step of a stage, as every stage has it": "pipeline.evaluate.driver "
    "pipeline.evaluate.sweeps.driver pipeline.evaluate.sweeps.report pipeline.evaluate.session",
    "a method, which the registry alone names": "pipeline.methods.baseline "
    "pipeline.methods.fewer_steps pipeline.methods.interval pipeline.methods.learned_schedule "
    "pipeline.methods.learning_to_cache pipeline.methods.smoothcache",
    "a subject apart from its importer's": "dqar.cache.salience_balancing dqar.control.manual "
    "dqar.integration.block_site dqar.integration.compiled.plan_run "
    "dqar.integration.compiled.step_variants "
    "dqar.integration.custom_op dqar.integration.salience_calibration pipeline.collect.columns "
    "pipeline.flags.names pipeline.methods.defaults "
    "pipeline.evaluate.flops pipeline.evaluate.sweeps.dummy_dit "
    "pipeline.methods.schedule_selection pipeline.methods.site_mixing "
    "pipeline.methods.stock_runs pipeline.storage.range_reader pipeline.storage.store_errors "
    "pipeline.traces.process_id pipeline.tracking.lineage pipeline.tracking.tracker "
    "pipeline.train.alternative_schedules "
    "pipeline.train.fits pipeline.train.local_error_model pipeline.train.reused_gate_writer",
    "a library that may be missing": "dqar.cache.triton_kernels",
}
"""All modules of library and pipeline that exactly one other module imports, by the reason for the
separate file."""
