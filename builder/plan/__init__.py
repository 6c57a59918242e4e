"""(spec, lock, cache, repository as they are) → BuildPlan: what is stale, why, and what it would take."""
