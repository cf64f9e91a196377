"""Fields of `LambdaGRPOConfig` that belong to one part of the method, with their help."""

from __future__ import annotations

from dataclasses import dataclass, field

from .methods import AUTO, BOXED_PROBE, LINES, NEUTRAL


@dataclass
class BranchFields:
    """Sibling credit and branching rollouts."""

    sibling_shrinkage: float | None = field(
        default=None,
        metadata={
            "help": "κ ≥ 0 of td_error='sibling': how many completions the baseline before a "
            "parting counts for beside those that part. Default None: as the method has it, "
            f"{NEUTRAL['sibling_shrinkage']:g}. 0 compares with siblings alone, inf with the group "
            "(in a forked group, with the other roots)."
        },
    )
    rollout: str | None = field(
        default=None,
        metadata={
            "help": "How a group is generated. Default None: as the method has it. 'independent': "
            "each completion from the prompt, as TRL does. 'branch': some from the prompt (roots), "
            "the others forked from those at a token, so that what they share is generated once."
        },
    )
    branch_roots: int | None = field(
        default=None,
        metadata={
            "help": "Completions of a group that start at the prompt. Default None: half of "
            "num_generations."
        },
    )
    branch_forks: str | None = field(
        default=None,
        metadata={
            "help": "How forks are shared out. Default None: as the method has it. 'spread': each "
            "fork at another token of any root. 'even': all roots alike, each forked at one token "
            "into num_generations / branch_roots completions."
        },
    )
    branch_at: str | None = field(
        default=None,
        metadata={
            "help": "Where completions are forked. Default None: as the method has it. 'random': "
            "any token is as likely. 'fraction': at branch_fraction of the expected length. "
            "'newline': behind the first newline after that. 'surprise': behind the first token "
            "after that which is less likely than exp(-branch_surprise). 'entropy': at the most "
            "uncertain tokens. 'value': at the ends of segments where the answer probe's value V "
            "is most uncertain, V(1-V); needs td_error='probe'. The last two look at finished "
            "completions (hindsight), which tilts the mean gradient, and take a forward pass."
        },
    )
    branch_fraction: float | None = field(
        default=None,
        metadata={
            "help": "Share, between 0 and 1, of the mean length of the other roots. Default None: "
            f"as the method has it, {NEUTRAL['branch_fraction']:g}."
        },
    )
    branch_surprise: float | None = field(
        default=None,
        metadata={
            "help": "In nats, > 0: how surprising a token must be. Default None: as the method has "
            f"it, {NEUTRAL['branch_surprise']:g}."
        },
    )
    branch_levels: int | None = field(
        default=None,
        metadata={
            "help": "Waves of forks, 1 to 3: those of the second may be forked from those of the "
            f"first. Default None: as the method has it, {NEUTRAL['branch_levels']}."
        },
    )
    branch_weights: str | None = field(
        default=None,
        metadata={
            "help": "What counts alike in the loss. Default None: as the method has it. 'rows': "
            "every completion, so that a token which k of them share counts k times. 'branches': "
            "at each position every branch, however many completions share it; that keeps the "
            "mean gradient, with less variance."
        },
    )


@dataclass
class ProbeFields:
    """The answer probe."""

    probe_text: str | None = field(
        default=None,
        metadata={
            "help": "td_error='probe': the text after which the known answer is expected. Default "
            f"None: as the method has it, a line '{BOXED_PROBE.strip()}'. {AUTO!r}: as each prompt "
            "asks for the answer: in \\boxed{}, after #### or in <answer>."
        },
    )
    answer_column: str | None = field(
        default=None,
        metadata={
            "help": "td_error='probe': the data set's column with the known answer; of several "
            "answers in a row the first one counts. Default None: answers, answer or solution, "
            "the first that is there."
        },
    )
    step_ends: str | None = field(
        default=None,
        metadata={
            "help": "td_error='probe': where a segment of the completion ends. Default None: as "
            f"the method has it. {LINES!r}: with a line, or a turn; a number: after so many policy "
            "tokens; or a function of your own, package.module.function, of a completion's token "
            "ids and the texts of these tokens, that returns the indices of tokens that end one."
        },
    )
    probe_calibration: bool | None = field(
        default=None,
        metadata={
            "help": "td_error='probe': make the answer's probability a prediction of the reward, "
            "by a regression over other groups, and train as RLOO until it predicts anything. "
            "Default None: as the method has it. False: the probability itself is the value, for "
            "rewards of 0 and 1."
        },
    )
