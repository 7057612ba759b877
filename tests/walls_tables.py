"""Tables of the allowed imports, which :mod:`tests.test_walls` compares with the source."""

from __future__ import annotations

MAY_IMPORT: dict[str, str] = {
    # The library: records and pure functions, then gates and control, then the seam to diffusers.
    "dqar.finite_fields": "",
    "dqar.records": "",
    "dqar.gate_table": "dqar.records",
    "dqar.signals": "",
    "dqar.scheduler_table": "",
    "dqar.sampler_names": "",
    "dqar.snr": "dqar.scheduler_table",
    "dqar.layer_schedule": "",
    "dqar.step_schedule": "dqar.records",
    "dqar.cache": "dqar.records dqar.signals",
    "dqar.config": "dqar.cache dqar.layer_schedule dqar.records",
    "dqar.validation": "",
    "dqar.hub_files": "",
    "dqar.registry": "dqar.hub_files",
    "dqar.regular_file": "",
    "dqar.foreign_files": "dqar.regular_file dqar.validation",
    "dqar.config_file": "dqar.config dqar.foreign_files dqar.validation",
    "dqar.policy": "dqar.finite_fields dqar.foreign_files dqar.gate_table dqar.records "
    "dqar.registry dqar.sampler_names dqar.step_schedule dqar.validation",
    "dqar.gates": "dqar.config dqar.gate_table dqar.layer_schedule dqar.policy dqar.records",
    "dqar.control": "dqar.cache dqar.config dqar.gate_table dqar.gates dqar.policy dqar.records "
    "dqar.signals dqar.snr",
    "dqar.schedules": "dqar.cache dqar.config dqar.control dqar.foreign_files dqar.gate_table "
    "dqar.gates dqar.policy dqar.records dqar.registry dqar.sampler_names dqar.snr "
    "dqar.validation",
    "dqar.integration": "dqar.cache dqar.config dqar.control dqar.finite_fields dqar.gate_table "
    "dqar.gates dqar.policy dqar.records dqar.schedules dqar.signals "
    "dqar.snr",
    "dqar.sharing": "dqar.finite_fields dqar.hub_files dqar.policy dqar.schedules",
    # The pipeline: shared packages, then the stages, which never import each other.
    "pipeline.choices": "",
    "pipeline.redaction": "",
    "pipeline.errors": "pipeline.redaction",
    "pipeline.markdown": "",
    "pipeline.progress": "",
    "pipeline.statistics": "",
    "pipeline.flags": "pipeline.errors",
    "pipeline.tracking_flags": "",
    "pipeline.cli": "pipeline.errors pipeline.flags pipeline.redaction",
    "pipeline.storage": "dqar.foreign_files dqar.registry dqar.regular_file dqar.validation "
    "pipeline.errors",
    "pipeline.tracking": "pipeline.errors pipeline.redaction pipeline.storage "
    "pipeline.tracking_flags",
    "pipeline.models": "dqar pipeline.errors pipeline.flags pipeline.storage",
    "pipeline.cluster": "dqar.validation pipeline.errors pipeline.flags pipeline.models "
    "pipeline.storage",
    "pipeline.exploration": "dqar pipeline.errors pipeline.models pipeline.storage",
    "pipeline.traces": "dqar pipeline.errors pipeline.exploration pipeline.models pipeline.storage",
    "pipeline.methods": "dqar pipeline.errors pipeline.models",
    "pipeline.collect": "dqar pipeline.cluster pipeline.errors pipeline.exploration "
    "pipeline.flags pipeline.models pipeline.progress pipeline.redaction pipeline.storage "
    "pipeline.traces pipeline.tracking pipeline.tracking_flags",
    "pipeline.train": "dqar pipeline.errors pipeline.exploration pipeline.flags pipeline.progress "
    "pipeline.storage pipeline.traces pipeline.tracking pipeline.tracking_flags",
    "pipeline.report": "dqar pipeline.errors pipeline.methods pipeline.redaction "
    "pipeline.statistics",
    "pipeline.evaluate": "dqar pipeline.cluster pipeline.errors pipeline.flags pipeline.markdown "
    "pipeline.methods pipeline.models pipeline.progress pipeline.redaction pipeline.report "
    "pipeline.statistics pipeline.storage pipeline.tracking pipeline.tracking_flags",
    "pipeline.sample": "dqar pipeline.cluster pipeline.errors pipeline.flags pipeline.models "
    "pipeline.progress pipeline.redaction pipeline.storage pipeline.tracking "
    "pipeline.tracking_flags",
    "pipeline.doctor": "pipeline.cluster pipeline.errors pipeline.flags pipeline.models "
    "pipeline.redaction pipeline.storage pipeline.tracking",
    "pipeline.demo": "pipeline.errors pipeline.flags pipeline.storage pipeline.tracking",
}
"""Packages that each package, or file outside a package, may import; ``dqar`` allows every package
of the library."""

ROOMS: dict[str, set[str]] = {
    "ray": {"pipeline/cluster/actor_pool.py", "pipeline/cluster/ray_cluster.py"},
    "mlflow": {
        "pipeline/tracking/connection.py",
        "pipeline/tracking/model_folder.py",
        "pipeline/tracking/policy_model.py",
        "pipeline/tracking/registered.py",
        "pipeline/tracking/registry.py",
        "pipeline/tracking/replay.py",
        "pipeline/tracking/store.py",
    },
    "pyarrow": {"pipeline/traces/tables.py"},
    "obstore": {"pipeline/storage/object_store.py", "pipeline/storage/store_client.py"},
    "tyro": {"pipeline/cli.py"},
    "tabulate": {"pipeline/markdown.py"},
    "jinja2": {"pipeline/report/render.py"},
    "diffusers": {
        "pipeline/models/broken_folders.py",
        "pipeline/models/loading.py",
        "pipeline/models/schedulers.py",
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
    "one step of a stage, as every stage has it": "pipeline.evaluate.sweeps.driver "
    "pipeline.evaluate.sweeps.report pipeline.evaluate.session "
    "pipeline.evaluate.report pipeline.evaluate.terminal_report",
    "a method, which the registry alone names": "pipeline.methods.fewer_steps "
    "pipeline.methods.interval pipeline.methods.learned_schedule "
    "pipeline.methods.learning_to_cache pipeline.methods.smoothcache pipeline.methods.spaced "
    "pipeline.methods.solvers pipeline.methods.one_stretch pipeline.methods.budget_search",
    "a subject apart from its importer's": "dqar.cache.salience_balancing dqar.control.manual "
    "dqar.control.run_state "
    "dqar.integration.compiled.plan_run "
    "dqar.integration.compiled.stack_variant dqar.integration.compiled.step_variants "
    "dqar.integration.diffusers_cache.apply dqar.integration.diffusers_cache.cache_run "
    "dqar.integration.diffusers_cache.hooks dqar.integration.guidance.branch_order "
    "dqar.integration.guidance.call_sequence "
    "dqar.integration.guidance.prompt_length dqar.integration.guidance.stacking "
    "dqar.integration.guidance.timestep_scale "
    "dqar.integration.engine.keys_and_values "
    "dqar.integration.engine.module_site dqar.integration.engine.patched_forward "
    "dqar.integration.salience_calibration "
    "dqar.schedules.interchange dqar.sharing.pretrained pipeline.collect.columns "
    "pipeline.flags.names pipeline.methods.defaults "
    "pipeline.cluster.actor_state pipeline.cluster.failed_starts pipeline.cluster.worker_wait "
    "pipeline.evaluate.flops pipeline.evaluate.sweeps.dummy_dit pipeline.methods.site_mixing "
    "pipeline.methods.search.local_search pipeline.methods.search.predicted_error "
    "pipeline.methods.search.surrogate pipeline.methods.schedule_selection "
    "pipeline.report.frontier_axes pipeline.report.frontier_svg pipeline.report.page_tables "
    "pipeline.report.render "
    "pipeline.methods.stock_runs pipeline.storage.range_reader pipeline.storage.store_errors "
    "pipeline.storage.durable_write pipeline.traces.lease_document "
    "pipeline.demo.job_log pipeline.doctor.services pipeline.evaluate.comparison "
    "pipeline.evaluate.promotion "
    "pipeline.tracking.model_folder "
    "pipeline.tracking.lineage pipeline.tracking.open_run pipeline.tracking.tracker "
    "pipeline.train.alternative_schedules "
    "pipeline.train.fits pipeline.train.local_error_model pipeline.train.reused_gate_writer",
}
"""All modules of library and pipeline that exactly one other module imports, by the reason for the
separate file."""
