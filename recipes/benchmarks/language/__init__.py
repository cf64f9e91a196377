"""Does credit help a real language model: word problems, a warm start, arms, runs, tables."""
