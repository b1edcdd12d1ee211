// What one sees: the chart with its line, the tiles, the table, the schedule. All texts go in as text, never as markup.

const byDepth = facts.targets.map((_, i) => i).sort((a, b) => facts.targets[a].order - facts.targets[b].order);
const state = { drop: facts.start, locked: new Map() };
const span = facts.worst > 0 ? facts.worst : Math.abs(facts.dense) || 1;
const nudge = facts.share ? 0.001 : 10 ** Math.floor(Math.log10(span / 100));
const $ = (id) => document.getElementById(id);

function make(name, attributes = {}, ...children) {
  const svg = ["svg", "g", "line", "path", "circle", "rect", "text", "title", "polyline"].includes(name);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// As few digits as tell it: 12.3 %, 0.0123.
const digits = (x, n = 3) => (x === 0 ? "0" : Math.abs(x) >= 10 ** n ? x.toFixed(0) : String(Number(x.toPrecision(n))));
const asMetric = (x) => (x === null ? "not measured" : facts.share ? `${(100 * x).toFixed(1)} %` : digits(x, 4));
const asDrop = (x) => (facts.share ? `${Number((100 * x).toFixed(2))} points` : digits(x, 4));
const asPercent = (x, n = 1) => `${(100 * x).toFixed(n)} %`;
function asCount(x) {
  for (const [step, unit] of [[1e12, " T"], [1e9, " G"], [1e6, " M"], [1e3, " k"]]) {
    if (x >= step * 0.9995) return digits(x / step) + unit;
  }
  return String(Math.round(x));
}

function colour(rank) {
  const place = byDepth.length > 1 ? (3 * rank) / (byDepth.length - 1) : 0, from = Math.min(2, Math.floor(place));
  return `color-mix(in oklab, var(--d${from + 1}) ${Math.round(100 * (place - from))}%, var(--d${from}))`;
}

const cutRatio = (i) => roundedDown(cut(facts.levels, drops[i], state.drop));
const ratiosNow = () => facts.targets.map((_, i) => (state.locked.has(i) ? state.locked.get(i) : cutRatio(i)));

// ---- tiles ----

const QUANTITIES = facts.coupled
  ? [["params", "parameters", asCount], ["macs", "MACs of one sample", asCount]]
  : [["nonzeros", "non-zero parameters", asCount]];
const dense = leftOf(facts.targets.map(() => 0));
if (dense.latency !== null) QUANTITIES.push(["latency", `estimated on ${facts.latency.on}, batch ${facts.latency.batch}`, (ms) => `${digits(ms)} ms`]);
if (facts.samples === 1 && facts.coupled) QUANTITIES[1][1] = "MACs of the example inputs";

const tiles = QUANTITIES.filter(([id]) => dense[id] !== null).map(([id, label, show]) => {
  const share = make("b"), figure = make("output", { id });
  const bar = make("i"), track = make("div", { class: "track", "aria-hidden": "true" }, bar);
  $("tiles").append(make("div", { class: "tile" }, share, track, make("span", {}, figure, ` of ${show(dense[id])} ${label}`)));
  return (left) => {
    share.textContent = asPercent(left[id] / dense[id]);
    bar.style.width = `${(100 * left[id]) / dense[id]}%`;
    figure.textContent = show(left[id]);
    figure.dataset.value = left[id];
  };
});

// ---- table ----

const rows = new Map();
byDepth.forEach((i, rank) => {
  const target = facts.targets[i];
  const ratio = make("input", { type: "number", min: 0, max: 99.99, step: 0.1, inputmode: "decimal", "aria-label": `pruned share of ${target.name}, percent`, "data-target": target.name });
  const lock = make("input", { type: "checkbox", "aria-label": `lock ${target.name}`, "data-lock": target.name });
  const kept = make("td"), alone = make("td", { class: "alone" });
  const swatch = make("i", { class: "swatch", "aria-hidden": "true" });
  swatch.style.background = colour(rank);
  const row = make("tr", {},
    make("th", { scope: "row" }, swatch, ...target.name.split(/(?<=[.])/).flatMap((part) => [part, make("wbr")])), make("td", { class: "stage" }, target.stage.replaceAll("x", "×") || "—"),
    make("td", {}, ratio, " %"), kept, alone, make("td", {}, lock));
  ratio.addEventListener("change", () => {
    const given = Number(ratio.value) / 100;
    if (ratio.value !== "" && given >= 0 && given < 1) state.locked.set(i, roundedDown(given));
    refresh();
  });
  lock.addEventListener("change", () => {
    if (lock.checked) state.locked.set(i, ratiosNow()[i]);
    else state.locked.delete(i);
    refresh();
  });
  row.addEventListener("pointerenter", () => highlight(i));
  row.addEventListener("pointerleave", () => highlight(-1));
  row.addEventListener("focusin", () => highlight(i));
  row.addEventListener("focusout", () => highlight(-1));
  $("rows").append(row);
  rows.set(i, { row, ratio, lock, kept, alone });
});

// ---- chart ----

const chart = $("chart");
let frame = null, handle = null, marks = new Map(), lines = new Map();

function ticks(low, high, wanted) {
  const raw = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= raw * (1 - 1e-9));
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n++) found.push(n * step);
  return found;
}

function drawChart() {
  const width = Math.max(280, Math.round(chart.parentElement.clientWidth - 24)), height = Math.max(300, Math.min(460, Math.round(width * 0.56)));
  const left = 58, right = width - 14, top = 16, bottom = height - 44;
  const values = facts.targets.flatMap((t) => t.values.filter((v) => v !== null)).concat(facts.dense);
  let low = Math.min(...values), high = Math.max(...values);
  const margin = (high - low) * 0.06 || Math.abs(high) * 0.05 || 0.5;
  low -= margin; high += margin;
  const last = Math.min(1, Math.max(...facts.levels) + 0.03);
  frame = {
    left, right, top, bottom, low, high,
    x: (v) => left + (v / last) * (right - left),
    y: (v) => bottom - ((v - low) / (high - low)) * (bottom - top),
    value: (y) => low + ((bottom - y) / (bottom - top)) * (high - low),
  };
  chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
  chart.setAttribute("height", height);
  chart.replaceChildren();
  chart.append(make("rect", { class: "plot", x: left, y: top, width: right - left, height: bottom - top }));
  for (const v of ticks(low, high, 5)) {
    chart.append(make("line", { class: "grid", x1: left, x2: right, y1: frame.y(v), y2: frame.y(v) }));
    chart.append(make("text", { class: "tick", x: left - 8, y: frame.y(v) + 4, "text-anchor": "end" }, facts.share ? `${digits(100 * v)} %` : digits(v)));
  }
  for (const v of ticks(0, last, width < 480 ? 5 : 10)) {
    chart.append(make("text", { class: "tick", x: frame.x(v), y: bottom + 17, "text-anchor": "middle" }, `${digits(100 * v)} %`));
  }
  chart.append(make("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
  chart.append(make("text", { class: "label", x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, "pruned share of one layer"));
  chart.append(make("text", { class: "label", x: left, y: 10, "text-anchor": "start" }, facts.metric));
  chart.append(make("line", { class: "dense", x1: left, x2: right, y1: frame.y(facts.dense), y2: frame.y(facts.dense) }));
  chart.append(make("text", { class: "tick", x: right, y: frame.y(facts.dense) - 5, "text-anchor": "end" }, `dense ${asMetric(facts.dense)}`));
  lines = new Map(); marks = new Map();
  const curves = make("g"), dots = make("g");
  byDepth.forEach((i, rank) => {
    const target = facts.targets[i], points = [[0, facts.dense], ...facts.levels.map((l, n) => [l, target.values[n]])].filter(([, v]) => v !== null);
    const line = make("g", { class: "curve" }, make("title", {}, target.name),
      make("polyline", { class: "reach", points: points.map(([l, v]) => `${frame.x(l)},${frame.y(v)}`).join(" ") }),
      make("polyline", { points: points.map(([l, v]) => `${frame.x(l)},${frame.y(v)}`).join(" ") }));
    const [lastLevel, lastValue] = points[points.length - 1];
    line.append(make("text", { class: "name", x: frame.x(lastLevel), y: Math.max(top + 12, frame.y(lastValue) - 9), "text-anchor": "end" }, target.name));
    line.style.color = colour(rank);
    line.addEventListener("pointerenter", () => highlight(i));
    line.addEventListener("pointerleave", () => highlight(-1));
    const dot = make("circle", { class: "cut", r: 4 });
    dot.style.color = colour(rank);
    lines.set(i, line); marks.set(i, dot);
    curves.append(line); dots.append(dot);
  });
  handle = make("g", { class: "handle", role: "slider", tabindex: 0, "aria-orientation": "vertical", "aria-label": `${facts.metric} that is accepted`, id: "line" },
    make("rect", { class: "grab", x: left, y: -20, width: right - left, height: 40 }),
    make("line", { x1: left, x2: right, y1: 0, y2: 0 }),
    make("path", { class: "knob", d: `M${left - 2} 0 l-10 -7 v14 z` }),
    make("rect", { class: "plate", y: 5, width: 10, height: 19, rx: 4 }),
    make("text", { x: right - 6, y: 19, "text-anchor": "end" }));
  chart.append(curves, handle, dots);
  handle.addEventListener("keydown", onKey);
}

const threshold = () => facts.dense - facts.sign * state.drop;
const farthest = () => Math.max(facts.sign > 0 ? facts.dense - frame.low : frame.high - facts.dense, nudge);

function setDrop(drop) {
  state.drop = Math.min(Math.max(0, drop), farthest());
  refresh();
}

function onKey(event) {
  const up = facts.sign > 0 ? -1 : 1;
  const moves = { ArrowUp: up, ArrowRight: up, ArrowDown: -up, ArrowLeft: -up, PageUp: 10 * up, PageDown: -10 * up };
  if (event.key in moves) setDrop(Number((state.drop + moves[event.key] * nudge).toPrecision(12)));
  else if (event.key === "Home") setDrop(0);
  else if (event.key === "End") setDrop(farthest());
  else return;
  event.preventDefault();
}

function dragTo(event) {
  const box = chart.getBoundingClientRect();
  const y = ((event.clientY - box.top) / box.height) * chart.viewBox.baseVal.height;
  const drop = facts.sign * (facts.dense - frame.value(y));
  setDrop(Math.round(drop / nudge) * nudge);
}

let dragging = false;
chart.addEventListener("pointerdown", (event) => {
  // A finger beside the line scrolls the page; a mouse may point anywhere.
  if (event.button !== 0 || (event.pointerType === "touch" && !handle.contains(event.target))) return;
  dragging = true;
  chart.setPointerCapture(event.pointerId);
  handle.focus({ preventScroll: true });
  dragTo(event);
  event.preventDefault();
});
chart.addEventListener("pointermove", (event) => { if (dragging) dragTo(event); });
for (const end of ["pointerup", "pointercancel"]) chart.addEventListener(end, () => { dragging = false; });

function highlight(which) {
  for (const [i, line] of lines) {
    line.classList.toggle("lit", i === which);
    line.classList.toggle("dim", which >= 0 && i !== which);
    rows.get(i).row.classList.toggle("lit", i === which);
  }
}

// ---- everything follows ----

function refresh() {
  const ratios = ratiosNow(), counts = countsOf(ratios), left = leftOf(counts), y = frame.y(threshold());
  for (const tile of tiles) tile(left);
  handle.setAttribute("transform", `translate(0 ${y.toFixed(2)})`);
  const words = handle.querySelector("text"), plate = handle.querySelector(".plate");
  words.textContent = `accepted ${asMetric(threshold())}`;
  const wide = Math.round(words.getComputedTextLength() + 12);
  plate.setAttribute("width", wide);
  plate.setAttribute("x", frame.right - wide);
  const above = y + 26 > frame.bottom;
  plate.setAttribute("y", above ? -24 : 5);
  words.setAttribute("y", above ? -10 : 19);
  const shares = QUANTITIES.filter(([id]) => dense[id] !== null).map(([id, label]) => `${asPercent(left[id] / dense[id])} of the ${label}`);
  for (const [key, value] of Object.entries({ valuemin: Math.min(facts.dense, facts.dense - facts.sign * farthest()), valuemax: Math.max(facts.dense, facts.dense - facts.sign * farthest()), valuenow: threshold(), valuetext: `${asMetric(threshold())}, ${asDrop(state.drop)} worse than dense; left: ${shares.join(", ")}` })) handle.setAttribute(`aria-${key}`, value);
  for (const [i, { row, ratio, lock, kept, alone }] of rows) {
    const target = facts.targets[i], locked = state.locked.has(i), share = counts[i] / target.units;
    if (document.activeElement !== ratio || !locked) ratio.value = Number((100 * ratios[i]).toFixed(2));
    lock.checked = locked;
    row.classList.toggle("locked", locked);
    kept.textContent = `${target.units - counts[i]} of ${target.units}`;
    kept.dataset.kept = target.units - counts[i];
    alone.textContent = (target.approximate.length ? "≈ " : "") + asMetric(metricAt(target, share));
    const dot = marks.get(i), at = metricAt(target, ratios[i], facts.levels);
    dot.classList.toggle("locked", locked);
    dot.style.display = at === null ? "none" : "";
    if (at !== null) { dot.setAttribute("cx", frame.x(ratios[i])); dot.setAttribute("cy", frame.y(at)); }
  }
  if (document.activeElement !== $("drop")) $("drop").value = Number((facts.share ? 100 * state.drop : state.drop).toPrecision(6));
  $("unlock").disabled = state.locked.size === 0;
  const text = recipeOf(ratios);
  $("recipe").textContent = text || "Every ratio is 0: there is nothing to prune. Accept a larger drop.";
  $("download").disabled = $("copy").disabled = !text;
}

if (facts.latency && facts.latency.checked) {
  const [estimated, measured] = facts.latency.checked;
  $("timed").textContent = `The latency is a sum over parts that were timed alone. One whole model was measured besides: ${asPercent(measured)} of the dense one's, ${asPercent(estimated)} by the estimate.`;
}
$("drop-unit").textContent = facts.share ? "points" : "";
$("drop").step = facts.share ? 100 * nudge : nudge;
$("drop").addEventListener("input", () => {
  const given = Number($("drop").value) / (facts.share ? 100 : 1);
  if ($("drop").value !== "" && given >= 0) setDrop(given);
});
$("drop").addEventListener("change", () => { $("drop").value = Number((facts.share ? 100 * state.drop : state.drop).toPrecision(6)); });
$("unlock").addEventListener("click", () => { state.locked.clear(); refresh(); });
$("download").addEventListener("click", () => {
  const link = make("a", { href: URL.createObjectURL(new Blob([recipeOf(ratiosNow())], { type: "application/yaml" })), download: "schedule.yaml" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(recipeOf(ratiosNow()));
    $("said").textContent = "copied";
  } catch {
    getSelection().selectAllChildren($("recipe"));
    $("said").textContent = "selected; copy it with the keyboard";
  }
});

drawChart();
refresh();
let drawn = chart.parentElement.clientWidth;
new ResizeObserver(() => {
  if (chart.parentElement.clientWidth === drawn) return;
  drawn = chart.parentElement.clientWidth;
  drawChart();
  refresh();
}).observe(chart.parentElement);
