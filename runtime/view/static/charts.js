// Charts of the last minute: probabilities, states, latencies.
import { prepare } from "./panes.js";

export const SPAN_S = 60;
const STATES = ["live", "waiting", "late", "missing", "frozen", "corrupt", "bad_clock", "implausible"];

export function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    ink: value("ink"), quiet: value("quiet"), card: value("card"), line: value("line"), mark: value("mark"), accent: value("accent"),
    series: Array.from({ length: 8 }, (_, i) => value(`series-${i + 1}`)),
    states: Object.fromEntries(STATES.map((s) => [s, value(s)])),
  };
}
export const knownStates = STATES;

// Probabilities as stacked areas, which always fill their height, and the entropy in a strip of its own below.
export function drawProbabilities(canvas, points, classes, now, theme) {
  const { context, width, height } = prepare(canvas);
  const right = 50, top = 4, floor_of_entropy = height - 17, bottom = floor_of_entropy - 26, edge = width - right;
  const x = (t) => edge * (1 - (now - t) / SPAN_S);
  const y = (p) => bottom - p * (bottom - top);
  context.fillStyle = theme.quiet; context.textBaseline = "top";
  for (const s of [60, 40, 20]) {
    context.textAlign = s === 60 ? "left" : "center";
    context.fillText(`−${s} s`, Math.max(3, x(now - s)), floor_of_entropy + 4);
  }
  context.textAlign = "right"; context.fillText("now", edge, floor_of_entropy + 4);
  context.textAlign = "left"; context.textBaseline = "bottom"; context.fillText("entropy", edge + 5, floor_of_entropy);
  const labels = [], most = Math.log(classes.length) || 1;
  for (const run of unbroken(points)) {
    const floor = run.map(() => 0);
    classes.forEach((name, c) => {
      const ceiling = run.map((p, i) => floor[i] + p.probabilities[c]);
      context.beginPath();
      run.forEach((p, i) => context.lineTo(x(p.t), y(ceiling[i])));
      for (let i = run.length - 1; i >= 0; i--) context.lineTo(x(run[i].t), y(floor[i]));
      context.closePath();
      context.fillStyle = theme.series[c % 8];
      context.fill();
      const last = run.length - 1;
      labels[c] = { name, colour: theme.series[c % 8], y: y((floor[last] + ceiling[last]) / 2), share: ceiling[last] - floor[last] };
      ceiling.forEach((value, i) => { floor[i] = value; });
    });
    context.beginPath();
    context.moveTo(x(run[0].t), floor_of_entropy);
    run.forEach((p) => context.lineTo(x(p.t), floor_of_entropy - 22 * Math.min(1, p.entropy / most)));
    context.lineTo(x(run[run.length - 1].t), floor_of_entropy);
    context.fillStyle = theme.quiet;
    context.fill();
  }
  context.textAlign = "left"; context.textBaseline = "middle";
  for (const label of labels) {
    if (!label || label.share < 0.1) continue;
    context.fillStyle = label.colour;
    context.fillText(label.name.slice(0, 7), edge + 5, Math.min(Math.max(label.y, top + 6), bottom - 6));
  }
}

// Splits the points where a second or more is missing, so that no line is drawn across a gap.
function unbroken(points) {
  const runs = [];
  let before = null;
  for (const p of points) {
    if (before === null || p.t - before > 1) runs.push([]);
    runs[runs.length - 1].push(p);
    before = p.t;
  }
  return runs;
}

// Stretches of one sensor in which neither its state nor its imputation changed.
export function stretches(points, index) {
  const found = [];
  for (const p of points) {
    const last = found[found.length - 1];
    if (last && last.state === p.states[index] && last.imputed === p.imputed[index] && p.t - last.until < 1) last.until = p.t;
    else {
      if (last && p.t - last.until < 1) last.until = p.t;
      found.push({ from: p.t, until: p.t, state: p.states[index], imputed: p.imputed[index] });
    }
  }
  return found;
}

export function drawStates(canvas, found, now, at, theme) {
  const { context, width, height } = prepare(canvas);
  const x = (t) => width * (1 - (now - t) / SPAN_S);
  for (const s of found) {
    const left = Math.max(0, x(s.from)), right = Math.max(x(s.until), left + 1);
    context.fillStyle = theme.states[s.state] || theme.quiet;
    context.fillRect(left, 0, right - left, height);
    if (s.imputed) hatch(context, left, right, height, theme);
  }
  if (at !== null) {
    context.strokeStyle = theme.ink; context.lineWidth = 1.5;
    context.beginPath(); context.moveTo(x(at), 0); context.lineTo(x(at), height); context.stroke();
  }
}

function hatch(context, left, right, height, theme) {
  context.save();
  context.beginPath(); context.rect(left, height / 2, right - left, height / 2); context.clip();
  context.fillStyle = theme.card; context.fillRect(left, height / 2, right - left, height / 2);
  context.strokeStyle = theme.mark; context.lineWidth = 2;
  context.beginPath();
  for (let s = Math.floor(left / 6) * 6 - height; s < right + height; s += 6) { context.moveTo(s, height); context.lineTo(s + height, 0); }
  context.stroke();
  context.restore();
}

export function drawHistogram(canvas, summary, edges, theme) {
  const { context, width, height } = prepare(canvas);
  const bottom = height - 16, bins = summary.counts.length, most = Math.max(1, ...summary.counts);
  const place = (ms) => {
    let i = 0;
    while (i + 1 < edges.length && ms >= edges[i + 1]) i++;
    const next = edges[i + 1] ?? 2 * edges[i];
    return ((i + Math.min(1, (ms - edges[i]) / (next - edges[i]))) * width) / bins;
  };
  context.fillStyle = theme.accent;
  summary.counts.forEach((count, i) => {
    const tall = count ? Math.max(2, (count / most) * (bottom - 18)) : 0;
    context.fillRect((i * width) / bins + 1, bottom - tall, width / bins - 2, tall);
  });
  context.strokeStyle = theme.line;
  context.beginPath(); context.moveTo(0, bottom); context.lineTo(width, bottom); context.stroke();
  context.fillStyle = theme.quiet; context.textBaseline = "top"; context.textAlign = "center";
  const every = width < 260 ? 5 : 3;
  edges.forEach((edge, i) => { if (i > 0 && i % every === 0) context.fillText(`${edge} ms`, (i * width) / bins, bottom + 4); });
  if (summary.p50 === null) return;
  for (const [name, value, row] of [["p50", summary.p50, 0], ["p99", summary.p99, 1]]) {
    const at = place(value);
    context.strokeStyle = theme.ink; context.setLineDash([3, 2]);
    context.beginPath(); context.moveTo(at, 4 + 12 * row); context.lineTo(at, bottom); context.stroke();
    context.setLineDash([]);
    context.fillStyle = theme.ink;
    context.textAlign = at > width - 60 ? "right" : "left";
    context.fillText(name, at + (at > width - 60 ? -4 : 4), 2 + 12 * row);
  }
}
