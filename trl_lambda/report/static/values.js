/* The value line: V before each segment of a completion, above its text, and the reward at its end. */

const LINE = { width: 1000, height: 64, edge: 4 };

function drawn(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** V of each token; a tool's tokens have that of the token before. */
function valuesOf(completion) {
  const values = [];
  for (let t = 0; t < completion.pieces.length; t++) {
    values.push(at(completion.value, t) ?? values[t - 1] ?? null);
  }
  return values;
}

/** Smallest and largest value and reward of a group: one scale for all its completions. */
function valueRange(group) {
  const numbers = group.completions.flatMap((one) => [...valuesOf(one), one.reward])
    .filter((value) => value !== null && value !== undefined);
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  return low < high ? [low, high] : [low - 0.5, high + 0.5];
}

function showValues(group, completion) {
  const box = byId("values");
  const values = completion.value === undefined ? [] : valuesOf(completion);
  box.hidden = !values.some((value) => value !== null);
  if (box.hidden) return;
  const [low, high] = valueRange(group);
  const y = (value) => LINE.height - LINE.edge - (LINE.height - 2 * LINE.edge) * (value - low) / (high - low);
  const x = (t) => (t * (LINE.width - 20)) / values.length;
  const points = values.flatMap((value, t) =>
    (value === null ? [] : [`${x(t)},${y(value)}`, `${x(t + 1)},${y(value)}`]));
  const svg = drawn("svg", { viewBox: `0 0 ${LINE.width} ${LINE.height}`, preserveAspectRatio: "none",
    role: "img", "aria-label": "Value V along the completion" });
  svg.append(drawn("polyline", { points: points.join(" ") }));
  if (completion.reward !== null) {
    const end = drawn("rect", { x: LINE.width - 16, y: y(completion.reward) - 3, width: 14, height: 6 });
    svg.append(end);
  }
  const first = values.find((value) => value !== null);
  const words = `Value V along the completion: from ${brief(first)} to ${brief(values.at(-1))} before its ` +
    `last segment, reward ${brief(completion.reward)} (block). The scale goes from ${brief(low)} to ${brief(high)}.`;
  box.replaceChildren(svg, element("p", { class: "hint" }, words));
}
