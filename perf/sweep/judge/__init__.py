"""Results of arms → which is better, what to measure next, when to stop; pure."""
