"""The plan that the batch sizes of a GRPO training come to.

- `sizes`: whether they fit each other, and the nearest that would.
- `plan`: prompts, groups, micro-batches and steps, printed before training.
"""

from .plan import BatchPlan, plan_batches
from .sizes import BatchSizes, batch_fault

__all__ = ["BatchPlan", "BatchSizes", "batch_fault", "plan_batches"]
