"""One load test: (a live server, a model, a load) → records and their summary."""
