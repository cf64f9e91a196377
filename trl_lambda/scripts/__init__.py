"""The command lines of the package.

- `python -m trl_lambda.scripts.train`: trains a model on prompts and rewards of your choice.
- `python -m trl_lambda.scripts.evaluate`: evaluates a model on math benchmarks, or compares two
  evaluations.
- `named_functions`: finds reward functions by short name or dotted path.
- `device`: what a machine without a GPU changes of the defaults of a training.
"""
