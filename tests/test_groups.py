"""Whole groups out of the rows of several processes, which are threads here."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from strategies import padded

from trl_lambda.functional import prefix_sets
from trl_lambda.groups import whole_groups
from trl_lambda.seam.trainer import ScoredBatch


class Together:
    """`accelerator.gather` among threads; counts the calls and the numbers that each sent."""

    def __init__(self, processes: int):
        self.slots: list = [None] * processes
        self.barrier = Barrier(processes, timeout=20)
        self.sent: list[list[int]] = [[] for _ in range(processes)]

    def of(self, rank: int):
        together = self

        class Accelerator:
            def gather(self, tensor):
                together.sent[rank].append(tensor.numel())
                together.slots[rank] = tensor
                together.barrier.wait()
                gathered = torch.cat(together.slots)
                together.barrier.wait()
                return gathered

        return Accelerator()


def completions(count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(1, 9, (count,), generator=generator).tolist()
    return [torch.randint(5, 7, (n,), generator=generator).tolist() for n in lengths]


def batch(rows: list[list[int]], rewards: torch.Tensor, first: int, own: int, size: int):
    """This process's part, padded to its own longest completion and prompt."""
    ids, lengths = padded(rows[first : first + own])
    ids = ids.masked_fill(torch.arange(ids.shape[1]) >= lengths[:, None], -1)
    # Prompts of one group are alike, and as long as the group's number.
    numbers = [(first + i) // size + 1 for i in range(own)]
    prompts = torch.full((own, max(numbers)), -1)
    for row, number in enumerate(numbers):
        prompts[row, -number:] = 9
    return ScoredBatch(
        completion_ids_BT=ids,
        prompt_ids_BP=prompts,
        lengths_B=lengths,
        mask_BT=ids >= 0,
        advantage_B=torch.zeros(own),
        reward_N=rewards,
        steps=[],
        images_added=False,
        has_images=False,
        first_row=first,
        group_size=size,
        prompts=[],
        completions=[],
        columns={},
    )


@pytest.mark.parametrize(
    ("processes", "own", "size"),
    [(2, 6, 4), (4, 3, 4), (3, 2, 6), (4, 1, 4), (3, 5, 3), (3, 4, 2), (2, 4, 4), (8, 3, 8)],
)
def test_sizes_and_values_are_those_of_all_rows_together(processes, own, size):
    count = processes * own
    rows, rewards = completions(count), torch.rand(count, dtype=torch.float64)
    ids, lengths = padded(rows)
    whole = prefix_sets(ids, lengths, torch.arange(count) // size)
    together = Together(processes)

    def local(rank: int):
        part = batch(rows, rewards, rank * own, own, size)
        return whole_groups(together.of(rank), part), part

    with ThreadPoolExecutor(processes) as pool:
        results = list(pool.map(local, range(processes)))
    begun = []
    for rank, (groups, part) in enumerate(results):
        mine = slice(rank * own, (rank + 1) * own)
        width = part.completion_ids_BT.shape[1]
        sizes = groups.sets.sizes()
        assert torch.equal(groups.local_sizes(sizes), whole.sizes()[mine, :width])
        torch.testing.assert_close(
            groups.local_values(), whole.mean(rewards)[mine, : width + 1], rtol=1e-12, atol=1e-12
        )
        first_of_W = rank * own // size * size
        begun += range(groups.begun.start + first_of_W, groups.begun.stop + first_of_W)
        assert sizes.shape[0] <= own + 2 * (size - 1)  # nobody computes for all
    assert begun == list(range(count))  # each group counted once
    calls = {len(sent) for sent in together.sent}
    assert calls == ({0} if own % size == 0 else {2})  # the widths, and the token ids once


def test_the_same_tokens_behind_other_prompts_are_no_group():
    part = batch([[5, 6]] * 4, torch.zeros(4), 0, 4, 4)
    part.prompt_ids_BP[2:] = 8
    sizes = whole_groups(Together(1).of(0), part).sets.sizes()
    assert torch.equal(sizes, torch.full((4, 2), 2))
