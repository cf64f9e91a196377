/* The completion view: tokens as text, shaded. Long completions are cut into chunks; a chunk holds
   plain text (so that find-in-page works and its height is right) until it comes near the window. */

const CHUNK = { tokens: 150, characters: 2500, atMost: 400 };
// The state of the view: `largest` of each sign makes its scale, `focus` is the token that Tab reaches.
const view = { group: null, completion: null, branch: null, shade: SHADES[0], signed: true,
  largest: { plus: 0, minus: 0 }, focus: 0, marks: new Map() };
let chunks = [];
let watcher = null;

/** [start, end) of each chunk: cut after a line's end, or by force where a line goes on and on. */
function cutIntoChunks(pieces) {
  const cuts = [];
  let start = 0;
  let characters = 0;
  for (let t = 0; t < pieces.length; t++) {
    characters += Math.min(pieces[t].length, LONGEST_PIECE);
    const long = t + 1 - start >= CHUNK.tokens || characters >= CHUNK.characters;
    const forced = t + 1 - start >= CHUNK.atMost || characters >= 2 * CHUNK.characters;
    if (forced || (long && pieces[t].includes("\n"))) {
      cuts.push([start, t + 1]);
      start = t + 1;
      characters = 0;
    }
  }
  if (start < pieces.length) cuts.push([start, pieces.length]);
  return cuts;
}

function showCompletion(completion) {
  Object.assign(view, { completion, focus: 0, marks: marksOf(view.group, completion) });
  showValues(view.group, completion);
  hideTooltip();
  watcher?.disconnect();
  const box = byId("text");
  chunks = cutIntoChunks(completion.pieces).map(([start, end]) => {
    const plain = completion.pieces.slice(start, end).map((piece) => shown(piece, LONGEST_PIECE)).join("");
    const goesOn = end < completion.pieces.length && !completion.pieces[end - 1].includes("\n");
    const node = element("div", { class: goesOn ? "chunk goes-on" : "chunk" }, plain);
    return { start, end, node, filled: false };
  });
  const empty = element("p", { class: "hint" }, "This completion has no tokens.");
  box.replaceChildren(...(chunks.length ? chunks.map((chunk) => chunk.node) : [empty]));
  box.scrollTop = 0;
  watchChunks(box);
  if (chunks.length) fill(chunks[0]);
  shadeTokens();
}

function watchChunks(box) {
  const chunkOf = new Map(chunks.map((chunk) => [chunk.node, chunk]));
  const near = { root: box, rootMargin: "600px 0px" };
  watcher = new IntersectionObserver((seen) => {
    for (const entry of seen) {
      if (!entry.isIntersecting) continue;
      fill(chunkOf.get(entry.target));
      watcher.unobserve(entry.target);
    }
  }, near);
  for (const chunk of chunks) watcher.observe(chunk.node);
}

/** Replaces a chunk's plain text by one element per token. */
function fill(chunk) {
  if (chunk.filled) return;
  chunk.filled = true;
  const tokens = [];
  for (let t = chunk.start; t < chunk.end; t++) {
    const text = shown(view.completion.pieces[t], LONGEST_PIECE);
    const mark = view.marks.get(t);
    const token = element("span", { "data-t": t, tabindex: t === view.focus ? 0 : -1,
      "data-mark": mark ? badge(mark) : null }, text);
    paint(token, t);
    tokens.push(token);
  }
  chunk.node.replaceChildren(...tokens);
}

/** Colour of token t: its class says which, --a how much. */
function paint(token, t) {
  const { completion, shade, largest, branch } = view;
  const value = at(completion.mask, t) ? shade.value(completion, t) : null;
  const names = ["t"];
  if (!at(completion.mask, t)) names.push("tool");
  if (value) names.push(hue(value));
  if (shade.key === "clipped" && value) names.push("clipped");
  if (branch.parent !== null && isInBranch(completion, t)) names.push("in-branch");
  if (isTakenOver(completion, t)) names.push("taken-over");
  const mark = view.marks.get(t);
  if (mark) names.push(mark.from === null ? "forks-away" : "forked-here");
  token.className = names.join(" ");
  const most = value < 0 ? largest.minus : largest.plus;
  token.style.setProperty("--a", value && most ? (Math.abs(value) / most).toFixed(3) : "0");
}

function isInBranch(completion, t) {
  const [start, end] = standsFor(completion, t);
  return start < view.branch.end && end > view.branch.start;
}

function hue(value) {
  if (!view.signed) return "amount";
  return value < 0 ? "minus" : "plus";
}

/** Paints all tokens anew: another shade, group or branch. */
function shadeTokens() {
  for (const chunk of chunks) {
    if (!chunk.filled) continue;
    for (const token of chunk.node.children) paint(token, Number(token.dataset.t));
  }
  showLegend();
  byId("absent").textContent = whyPlain();
  byId("absent").hidden = !whyPlain();
}

/** Why no token has a colour, if none has. */
function whyPlain() {
  const { completion, shade, largest } = view;
  if (!completion.pieces.length) return "";
  if (completion.pieces.some((_, t) => (shade.value(completion, t) ?? null) !== null)) {
    return largest.plus || largest.minus ? ""
      : `Nothing to shade: ${shade.title} is 0 all over the group.`;
  }
  return completion.update
    ? `Nothing to shade: the run did not compute ${shade.title}.`
    : `Nothing to shade: the log holds no update of this completion, so its ${shade.title} is ` +
      "not known. It was not used in an update, or the run ended before.";
}

function chooseShade(shade) {
  view.shade = shade;
  view.largest = extents(view.group, shade);
  const always = ["credit", "td_error"].includes(shade.key);
  view.signed = Boolean(shade.signed) && (always || view.largest.minus > 0);
}

function showLegend() {
  const { shade, signed } = view;
  const unit = shade.unit ? ` ${shade.unit}` : "";
  byId("legend").replaceChildren(
    element("div", { class: `scale ${signed ? "signed" : "unsigned"}` }),
    element("div", { class: "ends" }, ...legendEnds(unit).map((end) => element("span", {}, end))),
    element("p", { class: "hint" }, shade.about),
    element("p", { class: "hint" }, legendNote()));
}

/** What stands below the ends of the scale, and below its middle where it has two sides. */
function legendEnds(unit) {
  const { shade, signed, largest } = view;
  if (shade.key === "clipped") return ["not clipped", "clipped"];
  if (!signed) return ["0", `${brief(largest.plus)}${unit}`];
  const low = largest.minus ? `−${brief(largest.minus)}${unit}, ${shade.low}` : "no blame here";
  const high = largest.plus ? `${brief(largest.plus)}${unit}, ${shade.high}` : "no credit here";
  return [low, "0", high];
}

function legendNote() {
  const scales = view.signed
    ? "Each sign has a scale of its own, so one shade of orange and of blue need not be the same size. "
    : "";
  const range = view.shade.top ? "" : "The darkest shade is the largest value in this group. ";
  const forks = isBranched(view.group)
    ? "A line above: taken over from another completion, which sampled it. " : "";
  return `${scales}${range}${forks}Grey italics: not written by the policy (a tool's output, say).`;
}

function buildShades() {
  for (const shade of SHADES) {
    const checked = shade === view.shade;
    const choose = () => { chooseShade(shade); shadeTokens(); };
    const input = element("input", { type: "radio", name: "shade", value: shade.key, checked,
      onchange: choose });
    byId("shades").append(element("label", {}, input, shade.title));
  }
}

/* Pointing and walking. */

function tokenAt(t) {
  const chunk = chunks.find(({ start, end }) => t >= start && t < end);
  fill(chunk);
  return chunk.node.children[t - chunk.start];
}

function walk(event) {
  const last = view.completion.pieces.length - 1;
  const to = { ArrowRight: view.focus + 1, ArrowLeft: view.focus - 1, ArrowDown: view.focus + 10,
    ArrowUp: view.focus - 10, Home: 0, End: last }[event.key];
  if (to === undefined || !event.target.dataset.t) return;
  event.preventDefault();
  const next = tokenAt(Math.max(0, Math.min(last, to)));
  next.focus({ preventScroll: true });
  next.scrollIntoView({ block: "nearest" });
}

function focusToken(token) {
  const before = tokenAt(view.focus);
  before.tabIndex = -1;
  before.removeAttribute("aria-describedby");
  view.focus = Number(token.dataset.t);
  token.tabIndex = 0;
  token.setAttribute("aria-describedby", "tooltip");
  showTooltip(token, view.completion, view.focus);
}

function listenToTokens() {
  const box = byId("text");
  const ofToken = (handle) => (event) => {
    const token = event.target.closest("[data-t]");
    if (token) handle(token);
  };
  box.addEventListener("pointerover", ofToken((token) =>
    showTooltip(token, view.completion, Number(token.dataset.t))));
  box.addEventListener("pointerleave", hideTooltip);
  box.addEventListener("focusin", ofToken(focusToken));
  box.addEventListener("focusout", hideTooltip);
  box.addEventListener("keydown", walk);
  box.addEventListener("scroll", () => {
    if (!box.contains(document.activeElement)) hideTooltip();
  }, { passive: true });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTooltip(); });
}
