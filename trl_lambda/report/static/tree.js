/* The process-set tree: drawn by the chart library, walked with the pointer or with buttons. */

// Cividis, as the chart library draws it: reads the same to all eyes and in grey.
const REWARD_SCALE = "Cividis";
const LEVEL_HEIGHT = 46;

let library = null;

/** The chart library, unpacked at first use so that text can be read before. */
function charting() {
  library ??= (async () => {
    await new Promise((painted) => requestAnimationFrame(() => setTimeout(painted)));
    document.head.append(element("script", {}, await unpack(byId("library").textContent)));
    return window.Plotly;
  })();
  return library;
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function hoverLabel() {
  return { bgcolor: colour("--card"), bordercolor: colour("--line"),
    font: { color: colour("--ink") } };
}

function branchWords(group, branch) {
  if (!branch.rows.length) return "";
  return words(group.completions[branch.rows[0]], branch.start, branch.end);
}

/** Levels below and including a branch's own. */
function depthOf(group, branch) {
  return branch.parent === null ? 1 : 1 + depthOf(group, group.branches[branch.parent]);
}

/** "#3" of a box without others below; where there are copies, "#3, copied as #5". */
function leafName(group, branch) {
  const number = (index) => `#${index + 1}`;
  const copies = branch.rows.filter((index) => isCopy(group.completions[index]));
  const own = branch.rows.filter((index) => !copies.includes(index));
  const copied = copies.length && own.length ? `, copied as ${copies.map(number).join(", ")}` : "";
  return (own.length ? own : copies).map(number).join(", ") + copied;
}

/** Where the completion that sampled a branch's tokens was forked, if it was forked there. */
function forkOf(group, branch) {
  if (!isBranched(group) || !branch.start || !branch.rows.length) return null;
  const completion = group.completions[writer(group, branch.rows[0], branch.start)];
  if (completion.fork !== branch.start) return null;
  return `${named([group.completions.indexOf(completion)])} from ${named([completion.parent])}`;
}

function branchTitle(group, branch) {
  const count = `${branch.rows.length} of ${group.completions.length}`;
  return branch.parent === null ? `whole group (${group.completions.length})` : count;
}

/** [least, greatest] mean reward of a group's branches, never the same. */
function rewardRange(branches) {
  const known = branches.map(({ mean_reward: reward }) => reward).filter((r) => r !== null);
  const [least, greatest] = [Math.min(...known, Infinity), Math.max(...known, -Infinity)];
  if (!known.length) return [0, 1];
  return least < greatest ? [least, greatest] : [least - 0.5, greatest + 0.5];
}

function treeTrace(group, selected) {
  const branches = group.branches;
  const [least, greatest] = rewardRange(branches);
  const dark = ({ mean_reward: reward }) => reward === null ||
    (reward - least) / (greatest - least) < 0.45;
  const parents = new Set(branches.map(({ parent }) => parent));
  const alone = (branch, index) => branch.parent !== null &&
    (branch.rows.length === 1 || (isBranched(group) && !parents.has(index)));
  const forkLine = (branch) => {
    const fork = forkOf(group, branch);
    return fork ? `<br>forked here: ${fork}` : "";
  };
  const label = (branch, index) => alone(branch, index) ? brief(branch.mean_reward)
    : `${branchTitle(group, branch)} · reward ${brief(branch.mean_reward)}`;
  const text = (branch, index) => alone(branch, index) ? leafName(group, branch)
    : beginning(branchWords(group, branch), 28) || "(nothing shared)";
  return {
    type: "icicle",
    ids: branches.map((_, index) => String(index)),
    parents: branches.map(({ parent }) => (parent === null ? "" : String(parent))),
    values: branches.map(({ rows }) => rows.length),
    labels: branches.map((branch, index) => escaped(text(branch, index))),
    text: branches.map((branch, index) => escaped(label(branch, index))),
    textinfo: "label+text",
    hovertext: branches.map((branch) => `${escaped(beginning(branchWords(group, branch), 80))}<br>` +
      `${branchTitle(group, branch)} · reward ${brief(branch.mean_reward)}<br>step advantage ${brief(branch.step_advantage)}${forkLine(branch)}`),
    hoverinfo: "text",
    branchvalues: "total",
    sort: false,
    tiling: { orientation: "v", pad: 2 },
    pathbar: { visible: false },
    textfont: { color: branches.map((branch) => (dark(branch) ? "#ffffff" : "#111111")) },
    marker: {
      cmin: least,
      cmax: greatest,
      colors: branches.map(({ mean_reward: reward }) => reward),
      colorscale: REWARD_SCALE,
      showscale: true,
      colorbar: { title: { text: "mean reward", side: "right" }, thickness: 12, outlinewidth: 0 },
      line: {
        width: branches.map((branch) => (branch === selected ? 4 : 0)),
        color: colour("--select"),
      },
    },
  };
}

async function drawTree(group, selected, choose) {
  const box = byId("tree");
  const levels = Math.max(...group.branches.map((branch) => depthOf(group, branch)));
  const height = Math.max(120, levels * LEVEL_HEIGHT + 20);
  box.style.minHeight = `${height}px`; // nothing below moves when the tree appears
  const Plotly = await charting();
  if (group !== view.group || selected !== view.branch) return;
  const layout = {
    height,
    margin: { l: 2, r: 2, t: 6, b: 6 },
    paper_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("--ink"), family: "system-ui, sans-serif", size: 12 },
    hoverlabel: hoverLabel(),
    uniformtext: { minsize: 10, mode: "hide" },
  };
  await Plotly.react(box, [treeTrace(group, selected)], layout,
    { displayModeBar: false, responsive: true });
  box.removeAllListeners("plotly_icicleclick");
  box.on("plotly_icicleclick", ({ points }) => {
    choose(group.branches[Number(points[0].id)]);
    return false; // no zooming: the tree stays whole
  });
}

/** Positions of a branch's tokens, counted from 1. */
function span({ start, end }) {
  if (end - start < 2) return end > start ? String(end) : "none";
  return `${start + 1} … ${end}`;
}

/** What a branch is worth, in words, and the way to its neighbours. */
function showBranch(group, branch, choose) {
  const parent = branch.parent === null ? null : group.branches[branch.parent];
  const index = group.branches.indexOf(branch);
  const children = group.branches.filter((other) => other.parent === index);
  const fork = forkOf(group, branch);
  const copies = branch.rows.filter((row) => isCopy(group.completions[row])).map((row) =>
    `${row + 1} is a copy of ${group.completions[row].parent + 1}`);
  byId("tree-forks").hidden = !isBranched(group);
  const link = (other, title) => element("button", { class: "branch-link",
    onclick: () => choose(other) }, isolated(title));
  const facts = [
    ["completions", branchTitle(group, branch)],
    ["tokens", span(branch)],
    ...(fork ? [["forked here", fork]] : []),
    ...(copies.length ? [["copies", copies.join(", ")]] : []),
    ["mean reward", brief(branch.mean_reward)],
    ["step advantage", brief(branch.step_advantage)],
  ];
  byId("branch").replaceChildren(
    element("h3", {}, branch.parent === null ? "The whole group" : "This process set"),
    element("dl", {}, ...facts.flatMap(([name, value]) =>
      [element("dt", {}, name), element("dd", {}, value)])),
    element("p", { class: "hint" }, "Step advantage: the advantage that the mean reward of these " +
      "completions has in the group."),
    element("div", { class: "written", tabindex: 0, "aria-label": "Text of the process set" },
      isolated(shown(branchWords(group, branch)) || "(no token is shared)")),
    element("div", { class: "links" },
      parent && link(parent, "↑ the branch it grows from"),
      ...children.map((child) => link(child, `${child.rows.length} × ` +
        `“${beginning(branchWords(group, child), 24)}” · reward ${brief(child.mean_reward)}`))));
}
