import math

import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DECAYS, STYLES, masks

from trl_lambda.functional import eligibility_trace, lambda_return, trace_weights

TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def values_like(mask, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(mask.shape, dtype=torch.float64, generator=generator)


@given(masks(), DECAYS, STYLES, st.booleans(), st.integers(0, 99))
def test_equals_dense_matrix(mask, decay, style, normalize, seed):
    x = values_like(mask, seed)
    options = {"decay": decay, "style": style, "normalize": normalize}
    torch.testing.assert_close(
        eligibility_trace(x, mask, **options),
        oracles.trace(x, mask, decay, style, normalize),
        **TIGHT,
    )
    torch.testing.assert_close(
        lambda_return(x, mask, **options),
        oracles.transposed(x, mask, decay, style, normalize),
        **TIGHT,
    )


@given(masks(), DECAYS, STYLES)
def test_weights_are_row_sums(mask, decay, style):
    weights = trace_weights(mask.double(), decay=decay, style=style)
    torch.testing.assert_close(weights, oracles.row_sums(mask, decay, style), **TIGHT)


@given(masks(), DECAYS, STYLES, st.booleans(), st.integers(0, 99))
def test_lambda_return_is_the_transpose(mask, decay, style, normalize, seed):
    x, y = values_like(mask, seed), values_like(mask, seed + 1)
    options = {"decay": decay, "style": style, "normalize": normalize}
    left = (eligibility_trace(x, mask, **options) * y * mask).sum()
    right = (x * mask * lambda_return(y, mask, **options)).sum()
    torch.testing.assert_close(left, right, **TIGHT)


@pytest.mark.parametrize("style", ["recent", "both"])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("T", [1, 2, 3, 64, 513])
def test_equals_dense_matrix_on_long_completions(style, decay, T):
    mask = torch.ones(2, T)
    x = values_like(mask, T)
    for ours, oracle in (
        (eligibility_trace, oracles.trace),
        (lambda_return, oracles.transposed),
    ):
        got = ours(x, mask, decay=decay, style=style)
        torch.testing.assert_close(got, oracle(x, mask, decay, style), rtol=1e-12, atol=1e-11)


def test_worked_by_hand():
    x, mask = torch.tensor([[1.0, 2.0, 4.0, 8.0]]), torch.tensor([[1, 1, 1, 1]])
    assert eligibility_trace(x, mask, decay=0.5).tolist() == [[1, 2.5, 5.25, 10.625]]
    # W = [[1], [1, 1], [1, .5, 1], [1, .5, .5, 1]]
    both = eligibility_trace(x, mask, decay=0.5, style="both")
    assert both.tolist() == [[1.0, 3.0, 6.0, 12.0]]
    assert lambda_return(x, mask, decay=0.5).tolist() == [[4.0, 6.0, 8.0, 8.0]]
    assert lambda_return(x, mask, decay=0.5, style="both").tolist() == [[15.0, 8.0, 8.0, 8.0]]
    assert trace_weights(mask, decay=0.5).tolist() == [[1.0, 1.5, 1.75, 1.875]]


def test_a_hole_in_the_mask_is_passed_over():
    mask = torch.tensor([[0, 1, 0, 0, 1, 1, 0]])
    x = torch.tensor([[9.0, 1.0, 9.0, 9.0, 2.0, 4.0, 9.0]])
    assert eligibility_trace(x, mask, decay=0.5).tolist() == [[0, 1, 0, 0, 2.5, 5.25, 0]]


@given(masks(), st.integers(0, 99))
def test_no_decay_limits(mask, seed):
    x = values_like(mask, seed)
    masked = x * mask
    torch.testing.assert_close(eligibility_trace(x, mask, decay=0.0), masked, rtol=0, atol=0)
    torch.testing.assert_close(lambda_return(x, mask, decay=0.0), masked, rtol=0, atol=0)
    running_sum = masked.cumsum(1) * mask
    torch.testing.assert_close(eligibility_trace(x, mask, decay=1.0), running_sum, **TIGHT)


@given(masks(), DECAYS, STYLES)
def test_normalised_trace_keeps_a_constant_and_the_mean_gain(mask, decay, style):
    ones, weight = torch.ones(mask.shape, dtype=torch.float64), mask.double()
    options = {"decay": decay, "style": style, "normalize": True}
    torch.testing.assert_close(eligibility_trace(ones, mask, **options), weight, **TIGHT)
    total_gain = lambda_return(ones, mask, **options).sum(1)
    torch.testing.assert_close(total_gain, weight.sum(1), **TIGHT)


def test_column_sums_have_the_closed_form():
    n, c = 768, 0.99
    ones = torch.ones(1, n, dtype=torch.float64)
    k = torch.arange(n, dtype=torch.float64)

    def g(m):
        return (1 - c**m) / (1 - c)

    recent = lambda_return(ones, ones, decay=c)[0]
    torch.testing.assert_close(recent, g(n - k), **TIGHT)
    both = lambda_return(ones, ones, decay=c, style="both")[0]
    closed = g(torch.minimum(k, n - k)) + (n - 2 * k).clamp(min=0) * c**k
    torch.testing.assert_close(both, closed, **TIGHT)
    assert (round(recent.mean().item()), round(both.mean().item())) == (87, 149)


@pytest.mark.parametrize("style", ["recent", "both"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("function", [eligibility_trace, lambda_return])
def test_gradient(function, style, normalize):
    mask = torch.tensor([[1, 1, 0, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    x = values_like(mask, 0).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: function(x, mask, decay=0.7, style=style, normalize=normalize), x
    )


@given(masks(), DECAYS, STYLES, st.booleans())
def test_padding_never_matters(mask, decay, style, normalize):
    x = values_like(mask, 1)
    hostile = torch.where(mask.bool(), x, torch.nan)
    wider = torch.nn.functional.pad(hostile, (0, 7), value=math.inf)
    wider_mask = torch.nn.functional.pad(mask, (0, 7))
    options = {"decay": decay, "style": style, "normalize": normalize}
    for function in (eligibility_trace, lambda_return):
        want = function(x, mask, **options)
        got = function(wider, wider_mask, **options)[:, : x.shape[1]]
        torch.testing.assert_close(got, want, **TIGHT)
        assert not got[~mask.bool()].any()


def test_a_row_alone_equals_the_row_in_a_batch():
    mask = (torch.rand(6, 33, generator=torch.Generator().manual_seed(0)) > 0.3).long()
    x = values_like(mask, 3)
    batch = eligibility_trace(x, mask, decay=0.9, style="both")
    for i in range(6):
        alone = eligibility_trace(x[i : i + 1], mask[i : i + 1], decay=0.9, style="both")
        torch.testing.assert_close(alone[0], batch[i], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_is_accumulated_in_float32(dtype):
    mask = torch.ones(4, 300)
    x = values_like(mask, 5).to(dtype)
    got = eligibility_trace(x, mask, decay=0.99, style="both")
    assert got.dtype == torch.float32
    # Against the oracle on the *rounded* input: what is left is our own accumulation.
    want = oracles.trace(x, mask, 0.99, "both").float()
    torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5)


def test_memory_is_linear():
    """T = 2¹⁷ would need 64 GiB as a dense float32 matrix."""
    mask = torch.ones(1, 2**17)
    assert torch.isfinite(eligibility_trace(mask, mask, decay=0.99, style="both")).all()


X, MASK = torch.zeros(2, 3), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((X[0], MASK), {}, r"x must be \(B, T\), got shape \(3,\)"),
        ((X, MASK[:, :2]), {}, r"mask must have the shape of x, \(2, 3\), got \(2, 2\)"),
        ((X.long(), MASK), {}, r"x must be floating point, got torch.int64"),
        ((X, MASK), {"decay": 1.5}, r"decay must lie in \[0, 1\], got 1.5"),
        ((X, MASK), {"decay": math.nan}, r"decay must lie in \[0, 1\], got nan"),
        ((X, MASK), {"style": "none"}, r"style must be one of .*got 'none'"),
    ],
)
def test_bad_input_is_named(arguments, options, message):
    with pytest.raises(ValueError, match="eligibility_trace: " + message):
        eligibility_trace(*arguments, **{"decay": 0.9, **options})


@pytest.mark.parametrize("style", ["recent", "both"])
def test_no_running_sum_of_floats_is_left_to_cumsum(monkeypatch, style):
    """`cumsum` of floats has no deterministic kernel on CUDA, and raises where one is asked for."""
    cumsum = torch.Tensor.cumsum

    def integers_only(tensor, *args, **kwargs):
        assert not tensor.is_floating_point()
        return cumsum(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "cumsum", integers_only)
    x, mask = torch.randn(2, 9), torch.ones(2, 9)
    for function in (eligibility_trace, lambda_return):
        function(x, mask, decay=0.9, style=style, normalize=True)
    trace_weights(mask.long(), decay=0.9, style=style)


@pytest.mark.parametrize("style", ["recent", "both"])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_decay_for_each_row_is_that_row_alone(style, normalize):
    x, decays = torch.randn(5, 33, dtype=torch.float64), torch.tensor([0.0, 0.3, 0.9, 0.99, 1.0])
    mask = (torch.rand(5, 33) < 0.8).double()
    options = {"style": style, "normalize": normalize}
    for function in (eligibility_trace, lambda_return):
        found = function(x, mask, decay=decays.double(), **options)
        for row in range(5):
            one = slice(row, row + 1)
            alone = function(x[one], mask[one], decay=decays.double()[row].item(), **options)
            torch.testing.assert_close(found[one], alone, rtol=1e-12, atol=1e-12)
    weights = trace_weights(mask, decay=decays.double(), style=style)
    for row in range(5):
        one = slice(row, row + 1)
        alone = trace_weights(mask[one], decay=decays.double()[row].item(), style=style)
        torch.testing.assert_close(weights[one], alone, rtol=1e-12, atol=1e-12)


def test_a_decay_of_another_shape_is_named():
    with pytest.raises(ValueError, match=r"decay must be a number, or floating point \(B,\) = \(2"):
        lambda_return(torch.zeros(2, 3), torch.ones(2, 3), decay=torch.zeros(3))
