/* One tooltip for all tokens: the record's numbers, beside the token that is pointed at or focused. */

const tooltip = byId("tooltip");

function showTooltip(target, completion, t) {
  const rows = numbers(completion, t).map(([name, value]) =>
    element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, figure(value))));
  const policy = at(completion.mask, t) ? "" : " · not written by the policy";
  tooltip.replaceChildren(
    element("p", { class: "token" }, isolated(beginning(completion.pieces[t], 60) || "(empty)")),
    element("p", { class: "hint" }, `token ${position(completion, t)} of ${tokenCount(completion)}${policy}`),
    ...forkNotes(view.group, completion, t).map((note) => element("p", { class: "fork-note" }, note)),
    element("table", {}, ...rows));
  tooltip.hidden = false;
  place(target.getClientRects()[0] || target.getBoundingClientRect());
}

/** Below the token, or above it where the window ends. */
function place(token) {
  const { offsetWidth: width, offsetHeight: height } = tooltip;
  const below = token.bottom + 8;
  const top = below + height < innerHeight ? below : Math.max(4, token.top - height - 8);
  tooltip.style.top = `${top}px`;
  tooltip.style.left = `${Math.max(4, Math.min(token.left, innerWidth - width - 12))}px`;
}

function hideTooltip() {
  tooltip.hidden = true;
}
