"""(spec, plan) → artifacts → gates → model_repository/ and lock: what is stale is made, nothing else."""
