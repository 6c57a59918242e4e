"""Settings × load points on a live server → arms, rounds, trials → winner or tie."""
