"""Branching rollouts: completions of a group that are forked from one another.

`rule` says how a group branches, `places` where completions are forked, `waves` generates them,
whatever the engine, and `outcome` is what came of it. What stands before a fork is generated once.
"""

from .outcome import Rollout, rollout_metrics
from .rule import BranchRule, BranchSizes
from .waves import branch

__all__ = ["BranchRule", "BranchSizes", "Rollout", "branch", "rollout_metrics"]
