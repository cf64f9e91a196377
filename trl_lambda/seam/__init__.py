"""The seam to TRL, transformers and vLLM: every private of theirs that a training needs.

- `contract`: compares the installed TRL with what is assumed here; it runs when this is imported.
- `trainer`: TRL's scoring and loss as hooks with public names.
- `scoring`: log-probabilities of given continuations; `continuations` has the ways, `packed` and
  `shared` the rows of a forward pass.
- `loss_plan`: what a loss call sees in place of the log-ratio and of the reference.
- `loss_terms`: the KL term and the normalisers of TRL's loss.
- `user_functions`: what users' reward and rollout functions return, checked on all processes alike.
- `vllm_cpu`: the weight sync to vLLM on a CPU.
"""

from .contract import check_seam

check_seam()
