/* The page as a whole: which group, branch and completion is looked at. */

const choice = { run: 0, group: null, entry: null };

// Groups of an evaluation are named as such; where all are of the training it goes without saying.
const MODES = new Set(DATA.groups.map(({ mode }) => mode));

function describe({ step, mode, mean_reward: reward, prompt_end: prompt }) {
  const parts = [`step ${step}`, MODES.size > 1 ? mode : null,
    reward === null ? "no reward" : `mean reward ${brief(reward)}`, oneLine(prompt)];
  return parts.filter(Boolean).join(" · ");
}

const groupsOfRun = () => DATA.groups.filter(({ run }) => run === choice.run);

function chooseRun(run) {
  choice.run = run;
  byId("group").replaceChildren(...groupsOfRun().map((group, index) =>
    element("option", { value: index }, describe(group))));
  const groups = groupsOfRun();
  byId("group-view").classList.toggle("nothing", !groups.length);
  byId("earlier").disabled = byId("later").disabled = true;
  // Begin with the last group that has most to see: a fork that decided, or any credit at all.
  const most = groups.reduce((best, { telling }) => Math.max(best, telling), 0);
  if (groups.length) chooseGroup(groups.findLastIndex(({ telling }) => telling === most));
}

async function chooseGroup(index) {
  const groups = groupsOfRun();
  const entry = groups[index];
  choice.entry = entry;
  choice.group = index;
  byId("group").value = String(index);
  byId("earlier").disabled = index === 0;
  byId("later").disabled = index === groups.length - 1;
  const group = JSON.parse(await unpack(entry.packed));
  if (choice.entry !== entry) return; // another one was chosen meanwhile
  showPrompt(group.prompt);
  view.group = group;
  chooseShade(view.shade);
  chooseBranch(group.branches[0]);
}

/** Prompts begin alike, so the end is what is seen first; scrolling up shows the rest. */
function showPrompt(prompt) {
  const box = byId("prompt");
  box.replaceChildren(isolated(shownEnd(prompt)));
  box.scrollTop = box.scrollHeight;
  byId("prompt-note").textContent = box.scrollHeight > box.clientHeight + 1
    ? "Its end; scroll up for the rest." : "";
}

function chooseBranch(branch) {
  const { group } = view;
  view.branch = branch;
  const kept = branch.rows.includes(group.completions.indexOf(view.completion));
  showBranch(group, branch, chooseBranch);
  showRows(group, branch);
  drawTree(group, branch, chooseBranch);
  if (kept) shadeTokens();
  else chooseCompletion(firstTelling(branch.rows.map((index) => group.completions[index])));
}

/** The first fork that decided, or completion that has credit or blame, or the first of all. */
function firstTelling(completions) {
  return completions.find(({ decided }) => decided)
    ?? completions.find(({ largest_credit: credit }) => credit) ?? completions[0];
}

/** The largest credit of a completion, with its sign. */
function creditOf({ largest_credit: credit }) {
  return credit ? `${credit > 0 ? "credit" : "blame"} ${brief(credit)}` : "no credit";
}

function showRows(group, branch) {
  const { completions } = group;
  const all = branch.rows.length === completions.length;
  byId("filter").replaceChildren(
    all ? `All ${completions.length} of the group` :
      `${branch.rows.length} of ${completions.length} in the branch `,
    all ? "" : element("button", { class: "branch-link",
      onclick: () => chooseBranch(group.branches[0]) }, "show all"));
  byId("rows").replaceChildren(...[...branch.rows].sort((a, b) => a - b).map((index) => {
    const completion = completions[index];
    return element("button", { class: "row", "data-row": completion.row,
      onclick: () => chooseCompletion(completion) },
      element("strong", {}, `${index + 1}`),
      element("span", {}, `reward ${brief(completion.reward)}`),
      element("span", { class: "hint" }, creditOf(completion)),
      isBranched(group) ? element("span", { class: "hint" }, originOf(completion)) : null,
      element("span", { class: "hint" }, counted(tokenCount(completion), "token")));
  }));
}

function chooseCompletion(completion) {
  if (!completion) return;
  showCompletion(completion);
  showOrigin(view.group, completion, goTo);
  for (const row of byId("rows").children) {
    row.setAttribute("aria-pressed", row.dataset.row === completion.row);
  }
  showGrades(completion);
}

/** Shows a completion, also one that is not in the branch that is looked at. */
function goTo(completion) {
  const { group, branch } = view;
  if (!branch.rows.includes(group.completions.indexOf(completion))) chooseBranch(group.branches[0]);
  chooseCompletion(completion);
}

function showGrades(completion) {
  const part = (title, entries) => entries.length ? [element("h3", {}, title),
    element("dl", {}, ...entries.flatMap(([name, value]) =>
      [element("dt", {}, isolated(visible(name))), element("dd", {}, isolated(grade(value)))]))] : [];
  byId("grades").replaceChildren(
    ...part("Reward", [["total", completion.reward],
      ["group advantage", completion.group_advantage]]),
    ...part("By function", Object.entries(completion.rewards)),
    ...part("Further columns", Object.entries(completion.extra)),
    ...part("Record", [["row", completion.row], ["tokens", tokenCount(completion)]]));
}

function grade(value) {
  return typeof value === "string" ? shown(value) : figure(value);
}

/* Tabs. */

function chooseTab(tab) {
  for (const other of byId("tabs").children) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", chosen);
    other.tabIndex = chosen ? 0 : -1;
    byId(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  hideTooltip();
  draw();
}

/** Draws the charts of the open tab; they take their colours and width from the page. */
function draw() {
  if (!byId("run-view").hidden) {
    drawCharts();
    drawReliability();
  }
  else if (view.group) drawTree(view.group, view.branch, chooseBranch);
}

function listenToTabs() {
  const tabs = [...byId("tabs").children];
  for (const tab of tabs) {
    tab.addEventListener("click", () => chooseTab(tab));
    tab.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const other = tabs[1 - tabs.indexOf(tab)];
      chooseTab(other);
      other.focus();
    });
  }
}

/* What the reader should know of the record as a whole. */

function showNotes() {
  const steps = DATA.groups.map(({ step }) => step);
  const names = DATA.runs.map(({ name }) => visible(name)).join(" · ");
  const [first, last] = [Math.min(...steps), Math.max(...steps)];
  const when = first < last ? `, steps ${first} to ${last}` : steps.length ? `, step ${first}` : "";
  byId("subtitle").replaceChildren(isolated(names),
    ` · ${counted(DATA.groups.length, "recorded group")}${when}`);
  document.title = `Credit report: ${names}`;
  const notes = DATA.runs.flatMap((run) => [
    run.dropped.groups ? `${visible(run.name)}: the recorder dropped the oldest ` +
      `${counted(run.dropped.groups, "group")} to stay under credit_log_max_mb.` : null,
    run.unreadable ? `${visible(run.name)}: ${counted(run.unreadable, "unreadable line")} left ` +
      "out, as a run leaves them when it is killed." : null,
    run.superseded ? `${visible(run.name)}: ${counted(run.superseded, "line")} left out, of ` +
      "steps that were trained again after a checkpoint was resumed, or of another run." : null,
  ]);
  const none = DATA.groups.length || DATA.left_out ? null :
    "The log holds no group of completions; the training run is shown alone.";
  byId("notes").replaceChildren(...[DATA.left_out, none, ...notes].filter(Boolean)
    .map((note) => element("p", { class: "note" }, note)));
}

/** Terms and their meanings, below what they explain. */
function showMeanings(box, entries) {
  byId(box).replaceChildren(...entries.flatMap(([name, meaning]) =>
    [element("dt", {}, name), element("dd", {}, meaning)]));
}

function start() {
  showNotes();
  listenToTabs();
  listenToTokens();
  buildShades();
  showLines();
  showSettings();
  showMeanings("numbers", NUMBERS.map(([name, , meaning]) => [name, meaning]));
  showMeanings("curves", DATA.charts.map(({ title, about }) => [visible(title), about]));
  DATA.runs.forEach((run, index) =>
    byId("run").append(element("option", { value: index }, visible(run.name))));
  byId("run-label").hidden = DATA.runs.length === 1;
  byId("run").addEventListener("change", (event) => chooseRun(Number(event.target.value)));
  byId("group").addEventListener("change", (event) => chooseGroup(Number(event.target.value)));
  byId("earlier").addEventListener("click", () => chooseGroup(choice.group - 1));
  byId("later").addEventListener("click", () => chooseGroup(choice.group + 1));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  if (DATA.groups.length) chooseRun(0);
  else chooseTab(byId("tab-run"));
}

start();
