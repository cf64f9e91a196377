r"""The answer probe: how likely the policy finds the known answer, as the critic of a λ-return.

A policy that can be asked for the answer has a value of each prefix for free (`td_error="probe"`):

    segments   0 = b_0 < b_1 < … < b_m = n       policy tokens; a segment ends with a line, say
    Φ_k  = exp( mean_j log π_old(a*_j | prompt, y_<b_k, probe, a*_<j) ),  k < m        a*: the gold
    V_k  = Φ_k calibrated, k < m;  V_m = r
    δ_k  = V_{k+1} − V_k                         on the last token of segment k
    A    = Σ_{l ≥ k} c^(l−k) δ_l / std           on every token of segment k

That such a term exists as shaping: SPAE, arXiv 2601.03823; GRPO-VPS, arXiv 2604.20659. The λ-return
over it and its calibration are ours.

- `step_ends`: where segments end.
- `asking`: probe text and gold as tokens, for each segment of each completion.
- `calibration`: Φ as a prediction of the reward, from other groups; whether it predicts anything.
- `worth`: what a probe is worth: AUC by segment, over all rows and within groups.
- `early`: the same before the last quarter of the completions of a batch.
- `critic`: the above for a batch, on any number of processes.
"""
