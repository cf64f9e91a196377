"""Checkpoints that hold all of a training's state, and are known to be whole.

- `trainer`: the trainer's methods that save and restore what TRL forgets.
- `manifest`: which checkpoint is whole.
- `weights`: all weights come back, whatever names they were saved under.
- `window`: the generation window, and the settings that its credit came from.
- `place`: where a run stands in its data, also in a stream that is shorter than the run.
- `reference`: the reference model that follows the policy, also under PEFT.
"""
