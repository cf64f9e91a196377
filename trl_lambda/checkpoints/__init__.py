"""Checkpoints that hold all of a training's state, and are known to be whole.

- `trainer`: the trainer's methods that save and restore what TRL forgets.
- `manifest`: which checkpoint is whole.
- `reference`: the reference model that follows the policy, also under PEFT.
"""
