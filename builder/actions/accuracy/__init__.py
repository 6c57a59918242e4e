"""(answers, reference answers) → a verdict by bounds; and the samples that are asked for it."""
