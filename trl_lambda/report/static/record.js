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
  { key: "td_error", title: "δ (TD error)", signed: true, low: "lost most", high: "won most",
    value: (c, t) => at(c.td_error, t),
    about: "What the token newly tells about the reward, before the trace: on the last token of a " +
      "segment the change of V over it, above 0 (blue) where the known answer became likelier. 0 " +
      "on all tokens of a completion: V was not in use, and the reward less that of the others is " +
      "its credit." },
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
// Records of earlier versions have no entropy; δ is shown where the answer probe made it.
const SHADES = ALL_SHADES.filter(({ key }) => (key !== "entropy" || DATA.has_entropy)
  && (key !== "td_error" || DATA.reliability.length));

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

// Lines of a token's tooltip: [name, value, meaning]; the meanings stand below the text.
const NUMBERS = [
  ["credit (advantage)", (c, t) => at(c.advantage, t), "w·v·A: what the loss multiplies the ratio with."],
  ["TD error δ", (c, t) => at(c.td_error, t),
    "Of an answer probe: on a segment's last token the change of V over the segment, scaled."],
  ["value V", (c, t) => at(c.value, t),
    "Of an answer probe: the reward that is expected before the segment that the token is in."],
  ["token gain", (c, t) => at(c.trace_weight, t),
    "How many times the trace multiplies the token's gradient if TD errors are equal."],
  ["process-set weight", (c, t) => at(c.weight, t), "w: 1/size where process sets are weighted, else 1."],
  ["process-set size", (c, t) => at(c.size, t),
    "Completions of the group that share the text up to and with this token."],
  ["probability", (c, t) => rounded(probability(c, t)),
    "π of the token at the first update, exp of its log-prob."],
  ["surprise", (c, t) => rounded(surprise(c, t)), "−log π, in nats."],
  ["entropy", (c, t) => updated(c, "entropy", t), "Of the distribution over all tokens, in nats."],
  ["KL", (c, t) => updated(c, "kl", t),
    "Estimated divergence from the reference model, in nats; – where the run has none (beta = 0)."],
  ["clipped", (c, t) => ({ 0: "no", 1: "yes" })[updated(c, "clipped", t)],
    "Whether the ratio was beyond the clip range on the side that counts, so no gradient flowed."],
  ["ratio", (c, t) => updated(c, "ratio", t),
    "exp(z): probability at the update over that when sampled, traced in trace_mode=\"ratio\"."],
  ["|z|", (c, t) => updated(c, "z_abs", t), "Size of the log-ratio z, which the clip range bounds."],
  ["log-prob at the update", (c, t) => updated(c, "logps", t), "log π at the first update, in nats."],
  ["log-prob when sampled", (c, t) => updated(c, "old_logps", t),
    "log π of the policy that the update starts from, in nats."],
  ["token id", (c, t) => at(c.ids, t), "In the tokenizer's vocabulary."],
].filter(([name]) => (name !== "entropy" || DATA.has_entropy)
  && (!["TD error δ", "value V"].includes(name) || DATA.reliability.length));

/** [name, value] of all that is known of token t. */
function numbers(completion, t) {
  return NUMBERS.map(([name, value]) => [name, value(completion, t)]);
}

/** Tokens of a completion, those included that the record left out. */
function tokenCount({ pieces, cut }) {
  return pieces.length + (cut ? cut.tokens - 1 : 0);
}

/** Position of entry t among them, from 1. */
function position({ cut }, t) {
  return t + 1 + (cut && t > cut.at ? cut.tokens - 1 : 0);
}

/** To the five significant digits of the record. */
function rounded(value) {
  return value === null ? null : Number(value.toPrecision(5));
}

/** Text of the tokens start … end − 1 of a completion, and how many of them were left out. */
function words({ pieces, cut }, start, end) {
  if (!cut || end <= cut.at) return pieces.slice(start, end).join("");
  const behind = cut.at + cut.tokens;
  const missing = Math.min(end, behind) - Math.max(start, cut.at);
  const entry = (token) => Math.max(token, behind) - cut.tokens + 1;
  return [...pieces.slice(start, cut.at), missing > 0 ? `⟨… ${missing} tokens left out …⟩` : "",
    ...pieces.slice(entry(start), entry(end))].join("");
}
