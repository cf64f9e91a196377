"""The command lines of the package.

- `python -m trl_lambda.scripts.train`: trains a model on prompts and reward functions of your choice.
- `python -m trl_lambda.scripts.evaluate`: evaluates a model on math benchmarks, or compares two
  evaluations.
- `named_functions`: finds reward functions by short name or dotted path.
"""
