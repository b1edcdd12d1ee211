"use strict";
// What the ratios come to. Each function does what its namesake in Python does, in the same order of operations,
// so that both get the same numbers: cutting.py (cut), schedule_text.py (roundedDown), costs.py (the others).

const facts = JSON.parse(document.getElementById("facts").textContent);
const drops = facts.targets.map((t) => t.values.map((v) => (v === null ? Infinity : facts.sign * (facts.dense - v))));

function cut(levels, drops, most) {
  let before = 0, fallen = 0;
  for (let i = 0; i < levels.length; i++) {
    if (!(drops[i] <= most)) {
      const share = Number.isFinite(drops[i]) ? (most - fallen) / (drops[i] - fallen) : 0;
      return before + share * (levels[i] - before);
    }
    before = levels[i];
    fallen = drops[i];
  }
  return before;
}

const roundedDown = (ratio) => Math.floor(ratio * facts.step + 1e-6) / facts.step;

// In whole numbers: a ratio is a whole number of steps.
const numPruned = (ratio, units) => Math.floor((2 * Math.round(ratio * facts.step) * units + facts.step) / (2 * facts.step));

function bounded(target, count) {
  const step = !target.rounds ? 1 : facts.roundTo === "auto" ? target.step : facts.roundTo;
  const kept = Math.max(target.units - count, Math.min(target.minimum, target.units));
  return target.units - Math.min(target.units, Math.ceil(kept / step) * step);
}

// Units pruned per target; targets with a ratio of 0 are not in the schedule and lose none.
function countsOf(ratios) {
  const counts = facts.targets.map((t, i) => (ratios[i] > 0 ? bounded(t, numPruned(ratios[i], t.units)) : 0));
  for (const set of facts.equal) {
    const least = set.whole ? Math.min(...set.targets.map((i) => counts[i])) : 0;
    for (const i of set.targets) counts[i] = least;
  }
  return counts;
}

const evaluate = (terms, sizes) => terms.reduce((sum, [factor, groups]) => sum + groups.reduce((n, g) => n * sizes[g], factor), 0);

// Weights zeroed with so many units of a target; known for some counts where units differ in size.
function zeros(target, count) {
  if (!target.gone.length) return count * target.elements;
  const place = count * (target.gone.length - 1) / target.units;
  const low = Math.min(Math.floor(place), target.gone.length - 2);
  return target.gone[low] + (place - low) * (target.gone[low + 1] - target.gone[low]);
}

// What is left: parameters and MACs of the smaller model, weights that are not zero, estimated milliseconds.
function leftOf(counts) {
  const sizes = facts.groups.map(([, size]) => size);
  if (facts.coupled) facts.targets.forEach((t, i) => { if (t.group >= 0) sizes[t.group] -= counts[i]; });
  const params = evaluate(facts.params, sizes);
  const gone = facts.coupled ? 0 : facts.targets.reduce((sum, t, i) => sum + zeros(t, counts[i]), 0);
  return {
    params,
    nonzeros: params - gone,
    macs: facts.macs.length ? Math.floor(evaluate(facts.macs, sizes) / facts.samples) : null,
    latency: facts.latency && facts.latency.parts.reduce((sum, part) => sum + taken(part, sizes), 0),
  };
}

// Milliseconds of a part of the model: linear along each axis between the counts that were timed (estimate.py).
function taken(part, sizes) {
  return part.axes.reduceRight((values, groups, axis) => {
    const known = part.counts[axis], last = known.length - 1;
    const count = groups.reduce((sum, g) => sum + sizes[g], 0);
    let low = 0;
    while (low < last - 1 && known[low + 1] <= count) low++;
    const high = Math.min(low + 1, last);
    const far = high > low ? Math.min(1, Math.max(0, (count - known[low]) / (known[high] - known[low]))) : 0;
    const rows = Array.from({ length: values.length / known.length }, (_, row) => row * known.length);
    return rows.map((row) => (1 - far) * values[row + low] + far * values[row + high]);
  }, part.ms)[0];
}

// The metric of a target alone at a share of its units, or null where it was not measured; `at` are the shares or
// levels of its values: whole units were pruned at each level.
function metricAt(target, share, at = target.shares) {
  const levels = [0, ...at], values = [facts.dense, ...target.values];
  for (let i = 1; i < levels.length; i++) {
    if (share <= levels[i] + 1e-12) {
      if (values[i] === null || values[i - 1] === null) return null;
      if (levels[i] === levels[i - 1]) return values[i];
      return values[i - 1] + (values[i] - values[i - 1]) * (share - levels[i - 1]) / (levels[i] - levels[i - 1]);
    }
  }
  return null;
}

function recipeOf(ratios) {
  const lines = facts.targets.map((t, i) => (ratios[i] > 0 ? `${facts.recipe.indent}${t.key}: ${ratios[i]}\n` : ""));
  const text = lines.join("");
  return text ? facts.recipe.head + text + facts.recipe.tail : "";
}
