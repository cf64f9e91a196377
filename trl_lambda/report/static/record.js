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

// `signed` shades run from −m over 0 to m, others from 0 to m, m the largest of the group.
const SHADES = [
  { key: "credit", title: "credit", signed: true, low: "blamed", high: "credited",
    value: (c, t) => at(c.advantage, t) },
  { key: "trace", title: "trace weight", signed: false, low: "none", high: "most",
    value: (c, t) => at(c.trace_weight, t) },
  { key: "set", title: "process-set weight", signed: false, low: "none", high: "most",
    value: (c, t) => at(c.weight, t) },
  { key: "kl", title: "KL", signed: true, low: "negative", high: "positive",
    value: (c, t) => updated(c, "kl", t) },
  { key: "clipped", title: "clipped", signed: false, low: "no", high: "clipped",
    value: (c, t) => updated(c, "clipped", t) },
];

/** Largest absolute value of a shade over a group, 0 where nothing is known. */
function extent(group, shade) {
  let largest = 0;
  for (const completion of group.completions) {
    for (let t = 0; t < completion.pieces.length; t++) {
      const value = Math.abs(shade.value(completion, t) || 0);
      if (value > largest) largest = value;
    }
  }
  return largest;
}

/** Whether a shade goes below zero anywhere in the group. */
function goesBelowZero(group, shade) {
  return group.completions.some((completion) =>
    completion.pieces.some((_, t) => shade.value(completion, t) < 0));
}

/** [name, value] of all that is known of token t. */
function numbers(completion, t) {
  return [
    ["credit (advantage)", at(completion.advantage, t)],
    ["trace weight", at(completion.trace_weight, t)],
    ["process-set weight", at(completion.weight, t)],
    ["process-set size", at(completion.size, t)],
    ["KL", updated(completion, "kl", t)],
    ["clipped", { 0: "no", 1: "yes" }[updated(completion, "clipped", t)]],
    ["ratio", updated(completion, "ratio", t)],
    ["|z|", updated(completion, "z_abs", t)],
    ["log-prob at the update", updated(completion, "logps", t)],
    ["log-prob when sampled", updated(completion, "old_logps", t)],
    ["token id", at(completion.ids, t)],
  ];
}

/** Text of the tokens start … end − 1 of a completion. */
function words(completion, start, end) {
  return completion.pieces.slice(start, end).join("");
}
