"""Rules of batches and sequences."""
