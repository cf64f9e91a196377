"""The credit log: what single tokens of sampled groups got, written while training.

- `format`: files and records, once for writing and reading.
- `recorder`: follows sampled groups from their scoring to their first update.
- `writing`: files of bounded size that a kill costs at most a line.
- `forks`: where completions of a branched group come from.
- `reading`: lines into groups, each completion joined with its update.
"""
