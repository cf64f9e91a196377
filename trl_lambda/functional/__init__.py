"""The method as pure functions of tensors: torch alone, no TRL, no config, no logging."""

from .branches import Branches, branch_sets, branch_weights
from .normalization import group_mean, reward_denominator
from .process_sets import (
    PrefixSets,
    intermediate_proportion,
    path_depth,
    prefix_sets,
    prefix_values,
    process_set_sizes,
    split_groups_by_prompt,
)
from .sibling import branch_advantages, root_baselines, sibling_baselines, sibling_gains
from .td_errors import step_td_errors, terminal_td_errors, tree_td_errors
from .traces import TRACE_STYLES, eligibility_trace, lambda_return, trace_weights

__all__ = [
    "TRACE_STYLES",
    "Branches",
    "PrefixSets",
    "branch_advantages",
    "branch_sets",
    "branch_weights",
    "eligibility_trace",
    "group_mean",
    "intermediate_proportion",
    "lambda_return",
    "path_depth",
    "prefix_sets",
    "prefix_values",
    "process_set_sizes",
    "reward_denominator",
    "root_baselines",
    "sibling_baselines",
    "sibling_gains",
    "split_groups_by_prompt",
    "step_td_errors",
    "terminal_td_errors",
    "trace_weights",
    "tree_td_errors",
]
