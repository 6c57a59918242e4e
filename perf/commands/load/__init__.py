"""`tritonsmith load`: flags → one load test, what came out said."""
