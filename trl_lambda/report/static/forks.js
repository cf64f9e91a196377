/* Where completions of a branched group come from. The record counts them from 0 and the page from
   1; forks count tokens as they were sampled, and a completion that was cut has fewer entries. */

/** Whether the record says where this group's completions come from. */
function isBranched(group) {
  return group.completions.some(({ fork }) => fork !== null);
}

/** Whether a completion took over tokens of another one. */
function isFork({ fork }) {
  return fork > 0;
}

/** Whether it took over all it has: its parent ended before the fork. */
function isCopy(completion) {
  return isFork(completion) && completion.fork === tokenCount(completion);
}

/** [start, end) of the tokens that entry t stands for: one, or all that a cut left out. */
function standsFor(completion, t) {
  const start = position(completion, t) - 1;
  return [start, start + (completion.cut && t === completion.cut.at ? completion.cut.tokens : 1)];
}

/** Whether all that entry t stands for was taken over. */
function isTakenOver(completion, t) {
  return isFork(completion) && standsFor(completion, t)[1] <= completion.fork;
}

/** Index of the completion that sampled a token of the completion with this index. */
function writer(group, index, token) {
  const { parent, fork } = group.completions[index];
  return token < fork ? writer(group, parent, token) : index;
}

/** Indices of other completions that took over exactly `tokens` tokens of what this one says. */
function forkedBehind(group, index, tokens) {
  const last = writer(group, index, tokens - 1);
  return group.completions.flatMap(({ parent, fork }, other) =>
    other !== index && fork === tokens && parent === last ? [other] : []);
}

/** What happened at a completion's entries: entry -> { from: index or null, others: indices }. */
function marksOf(group, completion) {
  const marks = new Map();
  if (!isBranched(group)) return marks;
  const index = group.completions.indexOf(completion);
  const forks = new Set(group.completions.filter(isFork).map(({ fork }) => fork));
  for (let t = 0; t < completion.pieces.length; t++) {
    const [start, end] = standsFor(completion, t);
    const here = [...forks].filter((fork) => fork >= start && fork < end);
    if (!here.length) continue;
    const from = here.includes(completion.fork) ? completion.parent : null;
    const others = here.flatMap((fork) => forkedBehind(group, index, fork));
    if (from !== null || others.length) marks.set(t, { from, others });
  }
  return marks;
}

/** "completion 2", "completions 2, 5 and 7" of indices. */
function named(indices) {
  const numbers = indices.map((index) => String(index + 1));
  const last = numbers.pop();
  return numbers.length ? `completions ${numbers.join(", ")} and ${last}` : `completion ${last}`;
}

/** What a mark says beside its token. */
function badge({ from, others }) {
  if (from !== null) return `forked from ${from + 1}`;
  return others.length > 1 ? `${others.length} forks` : `fork ${others[0] + 1}`;
}

/** What the tooltip says of entry t of the completion on show. */
function forkNotes(group, completion, t) {
  const mark = view.marks.get(t);
  const index = group.completions.indexOf(completion);
  const notes = [];
  const [start, end] = standsFor(completion, t);
  const among = end - start > 1 ? ", among the tokens left out" : "";
  if (mark && mark.from !== null) notes.push(`forked here from ${named([mark.from])}${among}`);
  if (mark?.others.length) notes.push(`${named(mark.others)} forked here${among}`);
  if (isTakenOver(completion, t)) {
    notes.push(`taken over: ${named([writer(group, index, start)])} sampled it`);
  }
  return notes;
}

/** Where a completion comes from, in a few words. */
function originOf(completion) {
  if (!isFork(completion)) return "root";
  if (isCopy(completion)) return `copy of ${completion.parent + 1}`;
  return `fork of ${completion.parent + 1} at token ${completion.fork + 1}`;
}

/** Where a completion comes from and what comes from it, above its text. */
function showOrigin(group, completion, choose) {
  const box = byId("origin");
  box.hidden = !isBranched(group);
  if (box.hidden) return;
  const index = group.completions.indexOf(completion);
  const link = (other) => element("button", { class: "branch-link",
    onclick: () => choose(group.completions[other]) }, named([other]));
  const from = completion.parent;
  const said = !isFork(completion)
    ? ["A root: sampled from the prompt."]
    : isCopy(completion)
      ? ["A copy of ", link(from), ", which ended before the token at which it was to be forked. " +
        "All its tokens are shared, and none was sampled anew."]
      : ["A fork of ", link(from), `: its first ${counted(completion.fork, "token")} (with a line ` +
        "above) were taken over, and it went on by itself."];
  if (isFork(completion) && !completion.pieces.length) {
    said.push(" The record holds no token of it, as of completions that were masked out as truncated.");
  }
  const children = group.completions.flatMap((other, number) =>
    number !== index && isFork(other) && other.parent === index ? [number] : []);
  const part = (title, some) => some.length
    ? [title, ...some.flatMap((child, place) => [place ? ", " : "", link(child)]), "."] : [];
  box.replaceChildren(...said,
    ...part(" Forked from it: ", children.filter((child) => !isCopy(group.completions[child]))),
    ...part(" Copied from it: ", children.filter((child) => isCopy(group.completions[child]))));
}
