/* The record: what a page holds of a completion, and what of it can shade a token. */

const DATA = JSON.parse(byId("data").textContent);

/** Entry t of a per-token list; a list of one and the same value is stored as that value. */
function at(values, t) {
  return Array.isArray(values) ? values[t] : values;
}

/** Entry t of a list that came with the first update, null where there was none. */
function updated(completion, name, t) {
  return completion.update ? at(completion.update[name], t) : null;
}

/** π of the token as the policy was at the first update, from the recorded log-probability. */
function probability(completion, t) {
  const logp = updated(completion, "logps", t);
  return logp === null || logp === undefined ? null : Math.exp(logp);
}

function surprise(completion, t) {
  const logp = updated(completion, "logps", t);
  return logp === null || logp === undefined ? null : 0 - logp; // not −0
}

// `signed` shades have a scale for each sign, others run from 0 to the largest of the group, or to
// `top`. `about` says what a reader sees; `low` and `high` what the ends of a signed scale are.
const ALL_SHADES = [
  { key: "credit", title: "credit", signed: true, low: "blamed most", high: "credited most",
    value: (c, t) => at(c.advantage, t),
    about: "What the loss multiplies the token's ratio with, weights included: above 0 (blue) the " +
      "update makes the token likelier, below 0 (orange) less likely." },
  { key: "gain", title: "token gain",
    value: (c, t) => at(c.trace_weight, t),
    about: "How many times the gradient of the token is multiplied by the trace if all tokens have " +
      "the same TD error (column sums of the trace, Wᵀ1). 1 on every token: no trace." },
  { key: "set", title: "process-set weight",
    value: (c, t) => at(c.weight, t),
    about: "1 over the number of completions that share the text up to this token, where process " +
      "sets are weighted; else 1." },
  { key: "probability", title: "probability", top: 1,
    value: probability,
    about: "The policy's probability of the token, at the first update on this completion." },
  { key: "surprise", title: "surprise",
    value: surprise, unit: "nats",
    about: "−log of the policy's probability of the token: 0 where it was sure of it, 0.7 at one " +
      "half, 4.6 at one in a hundred." },
  { key: "entropy", title: "entropy",
    value: (c, t) => updated(c, "entropy", t), unit: "nats",
    about: "Entropy of the policy's distribution from which the token was drawn: 0 where only one " +
      "token was possible, log n where n were equally likely." },
  { key: "kl", title: "KL", signed: true, low: "lowest", high: "highest", unit: "nats",
    value: (c, t) => updated(c, "kl", t),
    about: "Estimate of the policy's divergence from the reference model on this token, at the " +
      "first update." },
  { key: "clipped", title: "clipped", top: 1,
    value: (c, t) => updated(c, "clipped", t),
    about: "Where clipping took the token's gradient away at the first update." },
];
// The entropy is in some records only.
const SHADES = ALL_SHADES.filter(({ key }) => key !== "entropy" || DATA.has_entropy);

/** Largest value of a shade over a group, upwards (`plus`) and downwards (`minus`); 0 for none. */
function extents(group, shade) {
  const largest = { plus: 0, minus: 0 };
  for (const completion of group.completions) {
    for (let t = 0; t < completion.pieces.length; t++) {
      if (!at(completion.mask, t)) continue;
      const value = shade.value(completion, t) || 0;
      largest.plus = Math.max(largest.plus, value);
      largest.minus = Math.max(largest.minus, -value);
    }
  }
  if (shade.top && largest.plus) largest.plus = shade.top;
  return largest;
}

/** [name, value] of all that is known of token t. */
function numbers(completion, t) {
  const known = [
    ["credit (advantage)", at(completion.advantage, t)],
    ["token gain", at(completion.trace_weight, t)],
    ["process-set weight", at(completion.weight, t)],
    ["process-set size", at(completion.size, t)],
    ["probability", rounded(probability(completion, t))],
    ["surprise", rounded(surprise(completion, t))],
    ["entropy", updated(completion, "entropy", t)],
    ["KL", updated(completion, "kl", t)],
    ["clipped", { 0: "no", 1: "yes" }[updated(completion, "clipped", t)]],
    ["ratio", updated(completion, "ratio", t)],
    ["|z|", updated(completion, "z_abs", t)],
    ["log-prob at the update", updated(completion, "logps", t)],
    ["log-prob when sampled", updated(completion, "old_logps", t)],
    ["token id", at(completion.ids, t)],
  ];
  return known.filter(([name]) => name !== "entropy" || DATA.has_entropy);
}

/** To the five significant digits of the record. */
function rounded(value) {
  return value === null ? null : Number(value.toPrecision(5));
}

/** Text of the tokens start … end − 1 of a completion. */
function words(completion, start, end) {
  return completion.pieces.slice(start, end).join("");
}
