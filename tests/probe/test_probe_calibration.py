"""The calibration: never from a row's own group, against a loop; what a worthless probe does."""

import math

import pytest
import segment_oracles
import torch

from trl_lambda.probe.calibration import (
    HALF_LIFE,
    MIN_GROUPS,
    RIDGE,
    SMALLEST,
    Calibration,
    Observed,
)

G = 4


def batch(seed: int, groups: int = 6, worth: float = 2.0, shift: float = 0.0) -> Observed:
    """Rewards of 0 and 1 whose log-odds Φ tells by `worth`, more so the later the segment."""
    generator = torch.Generator().manual_seed(seed)
    N, K = groups * G, 4
    good = torch.randn(N, generator=generator, dtype=torch.float64)
    reward = (
        torch.rand(N, generator=generator, dtype=torch.float64) < (2 * good).sigmoid()
    ).double()
    count = torch.randint(1, K + 1, (N, 1), generator=generator)
    k = torch.arange(K)
    noise = torch.randn(N, K, generator=generator, dtype=torch.float64)
    logit = worth * good[:, None] * (k + 1) / K + noise + shift - 2
    log_phi = -torch.nn.functional.softplus(-logit).masked_fill(k >= count, torch.nan)
    group = torch.arange(N) // G
    return Observed(log_phi, reward, group, groups, torch.zeros(N, dtype=torch.bool))


def observations(seen: Observed):
    """(features, reward, weight, group) of each probe, in a loop."""
    out = []
    for i, row in enumerate(seen.log_phi_NK.tolist()):
        own = [value for value in row if not math.isnan(value)]
        for k, value in enumerate(own):
            phi = min(max(math.exp(value), SMALLEST), 1 - SMALLEST)
            x = [math.log(phi / (1 - phi)), k / len(own)]
            out.append((i, k, x, seen.reward_N[i].item(), 1 / len(own), seen.group_N[i].item()))
    return out


def test_values_are_those_of_a_fit_to_all_others():
    """Two batches: the second's groups from the first's faded sums and one another."""
    first, second = batch(0, groups=20), batch(1)
    calibration = Calibration()
    calibration.predict(first, learn=True)
    found = calibration.predict(second, learn=True).value_NK
    faded = 0.5 ** (0 / HALF_LIFE)
    earlier = [(x, r, w * faded) for _, _, x, r, w, _ in observations(first)]
    seen = observations(second)
    for group in range(6):
        others = earlier + [(x, r, w) for *_, x, r, w, g in seen if g != group]
        x, r, w = (torch.tensor(part, dtype=torch.float64) for part in zip(*others, strict=True))
        coefficients = segment_oracles.ridge(x, r, w, RIDGE)
        for i, k, x_ik, *_, g in seen:
            if g == group:
                value = coefficients[0] + coefficients[1:] @ torch.tensor(x_ik, dtype=torch.float64)
                want = value.clamp(r.min(), r.max()).item()
                assert found[i, k].item() == pytest.approx(want, rel=1e-7, abs=1e-9)


def test_older_groups_fade():
    calibration = Calibration()
    calibration.predict(batch(0, groups=8), learn=True)
    once = calibration.moments.xx[0, 0].item()
    calibration.predict(batch(1, groups=8), learn=True)
    assert once == pytest.approx(8 * G)
    assert calibration.moments.xx[0, 0].item() == pytest.approx(
        8 * G * (1 + 0.5 ** (8 / HALF_LIFE))
    )
    assert calibration.groups == pytest.approx(8 * (1 + 0.5 ** (8 / HALF_LIFE)))


def test_the_rewards_of_a_group_never_reach_its_own_values():
    seen = batch(2, groups=20)
    changed = seen.reward_N.clone()
    changed[:G] = 1 - changed[:G]
    other = Observed(seen.log_phi_NK, changed, seen.group_N, 20, seen.lacks_gold_N)
    values, moved = (Calibration().predict(one, learn=False).value_NK for one in (seen, other))
    torch.testing.assert_close(values[:G], moved[:G], rtol=1e-9, atol=1e-12, equal_nan=True)
    assert not torch.allclose(values[G:].nan_to_num(), moved[G:].nan_to_num(), rtol=1e-4)


def test_phi_shifted_by_a_constant_changes_nothing():
    one, other = (
        Calibration().predict(batch(3, groups=20, shift=shift), learn=False).value_NK
        for shift in (0.0, 1.5)
    )
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8, equal_nan=True)


def test_values_stay_within_the_rewards_that_others_got():
    seen = batch(4, groups=20, worth=8.0)
    values = Calibration().predict(seen, learn=False).value_NK
    known = values[~values.isnan()]
    assert known.min() == 0
    assert known.max() == 1


def test_no_values_before_enough_groups_were_seen():
    calibration = Calibration()
    for number in range(3):
        values = calibration.predict(batch(number, groups=6), learn=True).value_NK
        assert values.isnan().all() == (6 * number + 5 < MIN_GROUPS), number


def run(worth: float, batches: int, seed: int = 0) -> list[bool]:
    calibration = Calibration()
    return [
        calibration.predict(batch(1000 * seed + n, worth=worth), learn=True).in_use
        for n in range(batches)
    ]


def test_a_probe_that_tells_something_comes_into_use_and_not_at_once():
    for seed in range(5):
        used = run(2.0, 30, seed)
        first = used.index(True)
        assert 2 * MIN_GROUPS / 6 - 1 <= first <= 15
        assert all(used[20:])


def test_a_worthless_probe_is_hardly_ever_in_use():
    used = [value for seed in range(10) for value in run(0.0, 60, seed)]
    assert sum(used) / len(used) < 0.03


def test_a_probe_that_loses_its_worth_goes_out_of_use():
    calibration = Calibration()
    for n in range(20):
        calibration.predict(batch(n, worth=2.0), learn=True)
    assert calibration.predicts
    for n in range(400):
        calibration.predict(batch(n, worth=-2.0 if n < 20 else 0.0), learn=True)
    assert not calibration.predicts


def test_whether_it_is_in_use_is_decided_by_earlier_batches():
    """The same history, and rewards of the batch at hand that make the probe look bad."""
    calibration = Calibration()
    for n in range(12):
        calibration.predict(batch(n), learn=True)
    state = calibration.state()
    for worth in (2.0, -5.0):
        other = Calibration()
        other.restore(state)
        assert other.predict(batch(99, groups=60, worth=worth), learn=True).in_use


def test_what_is_not_learnt_leaves_no_trace():
    calibration = Calibration()
    calibration.predict(batch(0, groups=20), learn=True)
    before = calibration.state()
    calibration.predict(batch(1), learn=False)
    after = calibration.state()
    assert all(torch.equal(torch.as_tensor(before[n]), torch.as_tensor(after[n])) for n in before)


def test_a_state_is_a_copy_and_goes_on_to_the_bit(tmp_path):
    calibration = Calibration()
    calibration.predict(batch(0, groups=20), learn=True)
    torch.save(calibration.state(), tmp_path / "state.pt")
    state = calibration.state()
    wanted = calibration.predict(batch(1), learn=True).value_NK
    for saved in (state, torch.load(tmp_path / "state.pt", weights_only=True)):
        resumed = Calibration()
        resumed.restore(saved)
        found = resumed.predict(batch(1), learn=True).value_NK
        assert torch.equal(found.nan_to_num(-1), wanted.nan_to_num(-1))
        assert torch.equal(resumed.moments.xx, calibration.moments.xx)
        assert torch.equal(resumed.gain, calibration.gain)


def test_unknown_rewards_and_completions_without_segments_count_for_nothing():
    seen = batch(5, groups=20)
    some = torch.arange(20 * G) % 7 == 0
    known, log_phi = seen.reward_N.masked_fill(some, math.nan), seen.log_phi_NK.clone()
    log_phi[some.roll(1)] = math.nan
    found, wanted = Calibration(), Calibration()
    found.predict(Observed(log_phi, known, seen.group_N, 20, seen.lacks_gold_N), learn=True)
    kept = ~some & ~some.roll(1)
    few = (log_phi[kept], known[kept], seen.group_N[kept], 20, seen.lacks_gold_N[kept])
    wanted.predict(Observed(*few), learn=True)
    torch.testing.assert_close(found.moments.xx, wanted.moments.xx)
    assert (found.low, found.high) == (0, 1)
    assert found.gain.isfinite().all()
