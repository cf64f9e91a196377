"""Groups with every number worked by hand; the first is the figure of λ-GRPO (arXiv 2509.21154).

Each entry: (name, completions, sizes, path depths, intermediate proportions, trivial, distinct
non-empty prefixes). 99 is EOS; it is a token like any other.
"""

import math

import tiny

EOS = tiny.EOS
# Two uneven groups of four for a trainer: the first shares prefixes, the second has a copy, a
# proper prefix and a lone branch.
TWO_GROUPS = [
    [5, 6, 7, EOS],
    [5, 6, 8, EOS],
    [5, 9, EOS],
    [4, 6, EOS],
    [7, 7, EOS],
    [7, 7, EOS],
    [7, EOS],
    [8, 7, 7, 7, 7, EOS],
]
TWO_GROUPS_REWARDS = [1.0, 0.0, 0.5, 0.0, 1.0, 0.0, 0.0, 1.0]

WORKED_GROUPS = [
    (
        "paper figure",
        [
            [65, 66, 67, 68],
            [65, 66, 120, 70, 71],
            [74, 75, 76, 77],
            [74, 75, 76, 78, 81, 83, 84],
            [74, 75, 76, 78, 81, 85],
            [88, 89, 90],
        ],
        [
            [2, 2, 1, 1],
            [2, 2, 1, 1, 1],
            [3, 3, 3, 1],
            [3, 3, 3, 2, 2, 1, 1],
            [3, 3, 3, 2, 2, 1],
            [1, 1, 1],
        ],
        [1, 1, 1, 2, 2, 0],
        [1 / 2, 2 / 5, 3 / 4, 5 / 7, 5 / 6, 0.0],
        False,
        19,
    ),
    (
        "identical completions",
        [[5, 6, 7, 99]] * 3,
        [[3, 3, 3, 3]] * 3,
        [0, 0, 0],
        [1.0, 1.0, 1.0],
        True,
        4,
    ),
    (
        "no overlap",
        [[1, 2, 99], [3, 2, 99], [4, 99]],
        [[1, 1, 1], [1, 1, 1], [1, 1]],
        [0, 0, 0],
        [0.0, 0.0, 0.0],
        True,
        8,
    ),
    (
        "prefixes without EOS",
        [[1, 2], [1, 2, 3], [1, 2, 3, 4]],
        [[3, 3], [3, 3, 2], [3, 3, 2, 1]],
        [0, 1, 1],
        [1.0, 1.0, 3 / 4],
        False,
        4,
    ),
    (
        "prefixes with EOS",
        [[1, 2, 99], [1, 2, 3, 99], [1, 2, 3, 4, 99]],
        [[3, 3, 1], [3, 3, 2, 1], [3, 3, 2, 1, 1]],
        [0, 1, 1],
        [2 / 3, 3 / 4, 3 / 5],
        False,
        7,
    ),
    (
        "an empty completion",
        [[], [1, 2, 99], [1, 99]],
        [[], [2, 1, 1], [2, 1]],
        [0, 1, 1],
        [math.nan, 1 / 3, 1 / 2],
        False,
        4,
    ),
    (
        "duplicates and a branch",
        [[1, 2, 3, 99], [1, 2, 3, 99], [1, 2, 4, 99], [9, 99]],
        [[3, 3, 2, 2], [3, 3, 2, 2], [3, 3, 1, 1], [1, 1]],
        [2, 2, 1, 0],
        [1.0, 1.0, 1 / 2, 0.0],
        False,
        8,
    ),
    (
        "prefixes that converge again",
        [[1, 2, 3, 99], [1, 9, 3, 99], [1, 2, 5, 99]],
        [[3, 2, 1, 1], [3, 1, 1, 1], [3, 2, 1, 1]],
        [1, 0, 1],
        [1 / 2, 1 / 4, 1 / 2],
        False,
        9,
    ),
]
