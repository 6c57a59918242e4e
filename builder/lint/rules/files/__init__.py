"""Rules of what lies in a model's directory."""
