"""Settings × load points on a live server → arms, rounds, trials → how each config stands at each load."""
