from dqar import integration

patch_pipeline = getattr(integration, "patch_pipeline", integration.patch_dit_pipeline)
unpatch_pipeline = getattr(integration, "unpatch_pipeline", integration.unpatch_dit_pipeline)
