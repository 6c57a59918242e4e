"""models.yaml → RepositorySpec of ModelSpec, checked and frozen."""
