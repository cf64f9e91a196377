/* The run view: one chart per metric, a line per run or per set of seeds. */

// --run-0 … --run-5 are Okabe-Ito's, told apart by colour-blind readers; dashes, in grey too.
const COLOURS = 6;
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];

function faint(hex) {
  const part = (from) => parseInt(hex.slice(from, from + 2), 16);
  return `rgba(${part(1)}, ${part(3)}, ${part(5)}, 0.18)`;
}

function lineTraces(line) {
  const index = DATA.lines.indexOf(line.name);
  const tint = colour(`--run-${index % COLOURS}`);
  const dash = DASHES[(index + (line.held_out ? 2 : 0)) % DASHES.length];
  const name = escaped(visible(line.name)) + (line.held_out ? " (held out)" : "");
  const edge = { x: line.steps, mode: "lines", line: { width: 0 }, hoverinfo: "skip" };
  const band = line.low
    ? [{ ...edge, y: line.low }, { ...edge, y: line.high, fill: "tonexty", fillcolor: faint(tint) }]
    : [];
  const mode = line.held_out || line.steps.length < 3 ? "lines+markers" : "lines";
  const middle = { x: line.steps, y: line.mean, mode, name, line: { color: tint, dash, width: 2 },
    hovertemplate: "step %{x}: %{y:.4g}" };
  return [...band, middle];
}

function chartLayout(chart) {
  const axis = { gridcolor: colour("--line"), zeroline: false, linecolor: colour("--line") };
  return {
    title: { text: escaped(visible(chart.title)), x: 0.02, xanchor: "left", font: { size: 14 } },
    height: 260,
    margin: { l: 54, r: 22, t: 38, b: 40 },
    showlegend: false,
    hovermode: "x unified",
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    hoverlabel: hoverLabel(),
    font: { color: colour("--ink"), family: "system-ui, sans-serif", size: 12 },
    xaxis: { ...axis, title: { text: "step", standoff: 4 } },
    yaxis: { ...axis, automargin: true },
  };
}

async function drawCharts() {
  const Plotly = await charting();
  const box = byId("charts");
  while (box.children.length < DATA.charts.length) {
    const chart = DATA.charts[box.children.length];
    box.append(element("div", { class: "card chart", role: "img",
      "aria-label": `${visible(chart.title)} over steps` }));
  }
  DATA.charts.forEach((chart, index) =>
    Plotly.react(box.children[index], chart.lines.flatMap(lineTraces), chartLayout(chart),
      { displayModeBar: false, responsive: true }));
}

/** Predicted against observed reward of an answer probe, and the diagonal. */
async function drawReliability() {
  const drawn = DATA.reliability;
  byId("reliability").hidden = byId("reliability-note").hidden = !drawn.length;
  if (!drawn.length) return;
  const Plotly = await charting();
  const ends = drawn.flatMap(({ predicted, observed }) => [...predicted, ...observed]);
  const span = [Math.min(...ends), Math.max(...ends)];
  const diagonal = { x: span, y: span, mode: "lines", hoverinfo: "skip",
    line: { color: colour("--line"), dash: "dot" } };
  const points = drawn.map((run, index) => ({ x: run.predicted, y: run.observed, mode: "lines+markers",
    name: escaped(visible(run.name)), text: run.count.map((count) => counted(count, "segment")),
    line: { color: colour(`--run-${index % COLOURS}`), dash: DASHES[index % DASHES.length] },
    hovertemplate: "predicted %{x:.3g}, observed %{y:.3g}, %{text}" }));
  const layout = chartLayout({ title: "Answer probe: predicted and observed reward" });
  layout.hovermode = "closest";
  layout.xaxis.title.text = "value V";
  layout.yaxis.title = { text: "mean reward" };
  Plotly.react(byId("reliability"), [diagonal, ...points], layout,
    { displayModeBar: false, responsive: true });
}

/** The legend stands once, above all charts. */
function showLines() {
  byId("lines").replaceChildren(...DATA.lines.map((name, index) => {
    const swatch = element("span", { class: "swatch" });
    swatch.style.borderTop =
      `3px ${index % 3 === 1 ? "dashed" : index % 3 === 2 ? "dotted" : "solid"} ` +
      `var(--run-${index % COLOURS})`;
    return element("span", { class: "line" }, swatch, isolated(visible(name)));
  }));
  const banded = DATA.charts.some((chart) => chart.lines.some((line) => line.low));
  const heldOut = DATA.charts.some((chart) => chart.lines.some((line) => line.held_out));
  byId("lines-note").textContent =
    (banded ? "Runs that differ in the seed alone: mean and 95 % Student interval. " : "") +
    (heldOut ? "Without markers: batches of the training. With markers: held-out prompts." : "");
  byId("not-logged").textContent = DATA.not_logged.length
    ? `Not logged by these runs: ${DATA.not_logged.join(", ")}.` : "";
}

/** Settings of a run, then when and with what it ran. */
function particulars({ settings, started, versions }) {
  const named = Object.entries(versions).map(([name, value]) => [`version of ${name}`, value]);
  return { ...settings, started, ...Object.fromEntries(named) };
}

function showSettings() {
  const known = DATA.runs.map(particulars);
  const names = [...new Set(known.flatMap(Object.keys))];
  const value = (particular, name) => typeof particular[name] === "string"
    ? particular[name] : JSON.stringify(particular[name] ?? null).replace("null", "–");
  const head = element("tr", {}, element("th", {}, "setting"),
    ...DATA.runs.map((run) => element("th", { scope: "col" }, isolated(visible(run.name)))));
  const rows = names.map((name) => {
    const values = known.map((particular) => value(particular, name));
    return element("tr", { class: new Set(values).size > 1 ? "differs" : null },
      element("th", { scope: "row" }, isolated(visible(name))),
      ...values.map((text) => element("td", {}, isolated(visible(text)))));
  });
  byId("settings").replaceChildren(head, ...rows);
}
