// The page: takes the updates of the server, keeps the last minute, and draws it.
import { describePane, drawPane, readMessage } from "./panes.js";
import { drawHistogram, drawProbabilities, drawStates, knownStates, readTheme, SPAN_S, stretches } from "./charts.js";

const $ = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const HIDDEN_FOR_MS = 5000; // a hidden page disconnects after this long, so that the node stops decoding for it
let theme = readTheme();
let socket = null, hiding = null, retry_ms = 500, dirty = false, drawn_ms = 0, paused = false;
let rig = null, tiles = {}, rows = {}, inspected = null;
const known = { points: [], events: [], panes: {}, body: null, numbers: null, latency: null, share: {} };

// ---- the connection

function connect() {
  if (socket) return;
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}/live`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = (event) => { retry_ms = 500; socket.send("taken"); take(readMessage(event.data)); };
  socket.onclose = () => {
    socket = null;
    if (document.hidden) return;
    showStatus("gone");
    setTimeout(connect, retry_ms);
    retry_ms = Math.min(5000, 2 * retry_ms);
  };
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) hiding = setTimeout(() => socket?.close(), HIDDEN_FOR_MS);
  else connect();
});

function command(action, modality) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ [action]: modality }));
}

function take(body) {
  if (body.rig) introduce(body.rig);
  known.body = body;
  for (const [t, probabilities, entropy, , , states, imputed] of body.points || [])
    known.points.push({ t, probabilities, entropy, states, imputed });
  if (body.now_s !== null) known.points = known.points.filter((p) => p.t >= body.now_s - SPAN_S);
  for (const event of body.events) { known.events.push(event); announce(event); }
  known.events = known.events.slice(-100);
  for (const pane of body.panes) known.panes[`${pane.stream}/${pane.modality}`] = pane;
  known.numbers = body.numbers || known.numbers;
  known.latency = body.latency || known.latency;
  known.share = body.imputed_share || known.share;
  if (!dirty) { dirty = true; requestAnimationFrame(draw); }
}

// ---- elements that are made once per run of a node

function introduce(what) {
  rig = what;
  Object.assign(known, { points: [], events: [], panes: {}, numbers: null, latency: null, share: {} });
  $("rig").textContent = `rig ${rig.name}`;
  $("events").replaceChildren();
  $("bars").replaceChildren(...rig.classes.map((name, i) => {
    const bar = document.createElement("li");
    bar.innerHTML = '<span class="name"></span><span class="track"><span class="fill"></span></span><span class="number"></span>';
    bar.querySelector(".name").textContent = name;
    bar.querySelector(".fill").style.setProperty("--series", `var(--series-${(i % 8) + 1})`);
    return bar;
  }));
  tiles = {}; rows = {};
  $("tiles").replaceChildren(...rig.sensors.map(makeTile));
  const axis = document.createElement("div");
  axis.className = "row axis";
  axis.innerHTML = "<i></i><span><i>−60 s</i><i>−40 s</i><i>−20 s</i><i>now</i></span><i></i>";
  $("rows").replaceChildren(...rig.sensors.map(makeRow), axis);
}

function makeTile(sensor, index) {
  const tile = $("tile").content.cloneNode(true).firstElementChild;
  const find = (selector) => tile.querySelector(selector);
  find("h3").textContent = sensor.name;
  tile.id = `tile-${sensor.name}`;
  tile.setAttribute("aria-label", `${sensor.name} sensor`);
  const button = find(".switch");
  button.id = `switch-${sensor.name}`;
  if (index < 9) button.setAttribute("aria-keyshortcuts", `${index + 1}`);
  button.onclick = () => toggle(sensor.name);
  tiles[sensor.name] = {
    tile, button, sensor, number: index + 1, state: find(".state"), mark: find(".mark"), vital: find(".vital"), reason: find(".reason"),
    streams: Object.fromEntries(["best", "imputed"].map((s) => [s, { canvas: find(`.${s} canvas`), origin: find(`.${s} .origin`), sources: find(`.${s} .sources`) }])),
  };
  return tile;
}

function makeRow(sensor, index) {
  const row = document.createElement("div");
  row.className = "row";
  row.innerHTML = '<span></span><canvas role="img" tabindex="0"></canvas><span class="quiet"></span>';
  const [name, canvas, state] = row.children;
  name.textContent = sensor.name;
  canvas.setAttribute("aria-label", `States of ${sensor.name} over the last 60 seconds`);
  rows[sensor.name] = { canvas, state, index, drawn: [] };
  canvas.onpointermove = (e) => inspect(sensor.name, known.body.now_s - SPAN_S * (1 - e.offsetX / canvas.clientWidth));
  canvas.onpointerleave = () => { inspected = null; };
  canvas.onblur = () => { inspected = null; };
  canvas.onkeydown = (e) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    const found = rows[sensor.name].drawn;
    if (!step || !found.length) return;
    e.preventDefault();
    const at = inspected?.modality === sensor.name ? inspected.t : known.body.now_s;
    let i = found.findLastIndex((s) => s.from <= at);
    i = Math.max(0, Math.min(found.length - 1, inspected?.modality === sensor.name ? i + step : i));
    inspect(sensor.name, (found[i].from + found[i].until) / 2);
  };
  return row;
}

function inspect(modality, t) {
  inspected = { modality, t };
  const s = rows[modality].drawn.findLast((each) => each.from <= t);
  if (!s) return;
  const change = known.events.findLast((e) => e[2] === modality && e[1] <= s.from + 0.3 && e[4] === s.state);
  const why = change && s.state !== "live" ? ` (${change[5]}${change[6] ? ": " + change[6] : ""})` : "";
  const text = `${modality} ${s.state}${why} for ${(s.until - s.from).toFixed(1)} s, from ${(known.body.now_s - s.from).toFixed(1)} s ago; ` +
    (s.imputed ? "decisions stood on an estimate of it" : "decisions stood on its measurements");
  if ($("readout").textContent !== text) $("readout").textContent = text;
}

$("legend").replaceChildren(...knownStates.map((state) => {
  const item = document.createElement("li");
  item.textContent = state.replace("_", " ");
  item.style.setProperty("--tone", `var(--${state})`);
  return item;
}), Object.assign(document.createElement("li"), { textContent: "imputed", className: "hatched" }));

// ---- switches and keys

function toggle(modality) {
  const state = known.body?.switches?.[modality];
  if (state === "playing") command("drop", modality);
  else if (state !== undefined && state !== "restoring") command("restore", modality);
}

function pause() {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", paused);
  if (!paused && known.body) draw(performance.now());
}
$("pause").onclick = pause;

document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.repeat) return;
  if (e.key.toLowerCase() === "p") pause();
  const tile = Object.values(tiles).find((each) => `${each.number}` === e.key);
  if (tile) toggle(tile.sensor.name);
});

function announce([, t, modality, previous, state, reason]) {
  if (known.body.now_s === null || known.body.now_s - t > 3) return;
  const text = state === "live" ? `${modality} live again` : `${modality} ${state.replace("_", " ")}: ${reason.replaceAll("_", " ")}`;
  $("announcer").append(Object.assign(document.createElement("p"), { textContent: previous === "waiting" ? `${modality} started` : text }));
  while ($("announcer").childElementCount > 5) $("announcer").firstElementChild.remove();
}

// ---- drawing

function draw(at_ms) {
  dirty = false;
  if (paused || !known.body) return;
  if (calm.matches && at_ms - drawn_ms < 500) return; // less motion: twice a second
  drawn_ms = at_ms;
  const body = known.body;
  showStatus(body.status, body.silent_s);
  if (!body.decision || !rig) return;
  showDecision(body);
  for (const sensor of rig.sensors) showSensor(body, sensor);
  drawProbabilities($("probabilities"), known.points, rig.classes, body.now_s, theme);
  if (known.latency) {
    showLatency("lateness", known.latency.lateness);
    showLatency("frame", known.latency.frame_to_decision);
  }
  if (known.numbers && !known.numbers.shown) showNumbers(known.numbers); // the update that brought them may not have been drawn
  showEvents(body.now_s);
}

function showStatus(status, silent_s) {
  const words = {
    live: ["live", ""],
    absent: ["no node", "No node answers. Start one with `afterimage run BUNDLE`; this page connects to it by itself."],
    stopped: ["node stopped", `The node stopped: its last decision came ${Math.round(silent_s)} s ago. What is shown below is old.`],
    gone: ["page lost", "The server of this page does not answer. What is shown below is old; the page keeps trying to reach it."],
  }[status];
  set($("status"), words[0]);
  $("status").dataset.status = status;
  document.title = status === "live" ? `Afterimage: ${rig?.name ?? ""}` : `Afterimage: ${words[0]}`;
  $("notice").hidden = !words[1];
  set($("notice"), words[1]);
}

function showDecision(body) {
  const { decision, commentary } = body;
  const chosen = rig.classes.indexOf(decision.label);
  set($("label"), decision.label);
  set($("confidence"), decision.probabilities[chosen].toFixed(2));
  const truth = commentary?.truth;
  set($("truth"), truth ? (truth === decision.label ? `truth ${truth} ✓` : `truth ${truth} ✗`) : "");
  $("truth").className = truth && truth !== decision.label ? "wrong" : "";
  const names = (imputed) => rig.sensors.map((s) => s.name).filter((m) => body.sensors[m].imputed === imputed);
  const fault = commentary?.fault ? ` · injected: ${commentary.fault}` : "";
  set($("stands-on"), `measured: ${names(false).join(", ") || "nothing"} · imputed: ${names(true).join(", ") || "nothing"}${fault}`);
  [...$("bars").children].forEach((bar, i) => {
    const p = decision.probabilities[i];
    bar.classList.toggle("chosen", i === chosen);
    bar.querySelector(".fill").style.width = `${100 * p}%`;
    set(bar.querySelector(".number"), p.toFixed(2));
  });
  set($("entropy"), `entropy ${decision.entropy.toFixed(2)} nat`);
  const others = Object.entries(decision.compare);
  $("compare").hidden = !others.length;
  set($("compare"), others.map(([policy, label]) => `${policy} would say ${label}`).join(" · "));
  set($("rig"), `rig ${rig.name} · bundle ${decision.bundle.slice(0, 12)} · tick ${decision.tick}` +
    (known.numbers ? ` · ${known.numbers.backend}` : ""));
}

function showSensor(body, sensor) {
  const now = body.sensors[sensor.name], t = tiles[sensor.name];
  const word = (now.state ?? "unknown").replace("_", " ");
  set(t.state, word);
  t.tile.style.setProperty("--tone", `var(--${now.state})`);
  t.mark.hidden = !now.imputed;
  t.tile.classList.toggle("stands-on-model", Boolean(now.imputed));
  const share = known.share[sensor.name];
  set(t.vital, `${now.rate_hz === null ? "–" : now.rate_hz.toFixed(1)}/s · ${now.age_ms === null ? "no data yet" : age(now.age_ms)}`);
  const why = now.reason ? now.reason.replaceAll("_", " ") : `nominal ${sensor.rate_hz} messages/s`;
  set(t.reason, share ? `${why} · imputed ${Math.round(100 * share)} % of 60 s` : why);
  for (const stream of ["best", "imputed"]) showPane(t, stream, sensor, body.now_s);
  showSwitch(t, body.switches?.[sensor.name]);
  const row = rows[sensor.name];
  row.drawn = stretches(known.points, row.index);
  drawStates(row.canvas, row.drawn, body.now_s, inspected?.modality === sensor.name ? inspected.t : null, theme);
  set(row.state, now.imputed ? `${word}, imputed` : word);
}

function showPane(t, stream, sensor, now_s) {
  const pane = known.panes[`${stream}/${sensor.name}`];
  const { canvas, origin, sources } = t.streams[stream];
  if (!pane) return;
  if (pane.drawn !== canvas.clientWidth) {
    drawPane(canvas, pane, sensor, theme);
    pane.drawn = canvas.clientWidth;
    canvas.setAttribute("aria-label", describePane(pane, sensor.name));
    canvas.classList.toggle("model", pane.imputed);
    set(origin, pane.imputed ? "IMPUTED" : "measured");
    origin.classList.toggle("model", pane.imputed);
  }
  const old_s = now_s - pane.at_s;
  const from = pane.sources.length ? `from ${pane.sources.join(", ")}` : "no sensor left: what the model expects";
  set(sources, old_s > 1 ? `${age(1000 * old_s)} old` : pane.imputed ? from : "by the sensor");
  canvas.style.opacity = old_s > 1 ? 0.45 : 1;
}

function showSwitch(t, state) {
  t.button.hidden = state === undefined;
  if (state === undefined) return;
  const dropped = state !== "playing";
  const words = { playing: `Drop ${t.sensor.name}`, dropped: `Restore ${t.sensor.name}`, restoring: `Restoring ${t.sensor.name}` };
  const text = words[state] ?? `Restore ${t.sensor.name} (${state})`;
  if (t.button.dataset.text !== text) {
    t.button.dataset.text = text;
    t.button.replaceChildren(text, Object.assign(document.createElement("kbd"), { textContent: t.number }));
    t.button.setAttribute("aria-pressed", dropped);
    t.button.setAttribute("aria-busy", state === "restoring");
  }
}

function showLatency(id, summary) {
  const canvas = $(id), ms = (v) => (v === null ? "–" : `${v < 10 ? v.toFixed(2) : v.toFixed(1)} ms`);
  const text = `p50 ${ms(summary.p50)} · p99 ${ms(summary.p99)}`;
  set($(`${id}-numbers`), text);
  canvas.setAttribute("aria-label", `Histogram of ${summary.count} values, ${text}`);
  drawHistogram(canvas, summary, rig.edges_ms, theme);
}

function showNumbers(n) {
  n.shown = true;
  const count = (value) => (value ?? 0).toLocaleString("en").replaceAll(",", "\u202f");
  const sum = (dropped) => Object.values(dropped ?? {}).reduce((a, b) => a + b, 0);
  const line = (name, c) => {
    const row = document.createElement("tr");
    row.append(Object.assign(document.createElement("th"), { textContent: name, scope: "row" }));
    for (const [value, kind] of [[c.received, ""], [c.used, ""], [c.pending, "wide"], [sum(c.dropped), ""], [c.lost, ""]])
      row.append(Object.assign(document.createElement("td"), { textContent: count(value), className: kind }));
    return row;
  };
  $("counters").replaceChildren(...Object.entries(n.modalities).map(([name, c]) => line(name, c)), line("all", n.total));
  const lost = n.total.unaccounted;
  set($("unaccounted"), lost ? `${lost} unaccounted for` : "0 unaccounted for");
  $("unaccounted").classList.toggle("wrong", Boolean(lost));
  const reasons = Object.entries(n.total.dropped ?? {}).map(([reason, c]) => `${reason.replaceAll("_", " ")} ${count(c)}`);
  set($("reasons"), `dropped: ${reasons.join(" · ") || "none"}`);
  const cpu = n.seconds > 0 ? ` · node CPU ${((100 * n.cpu_seconds) / n.seconds).toFixed(0)} %` : "";
  const errors = Object.entries(n.errors).map(([stage, e]) => ` · ${stage} failed ${e.count}×`).join("");
  set($("node-numbers"), `ticks ${count(n.ticks.published)} · missed ${count(n.ticks.missed)} · up ${age(1000 * n.seconds)}${cpu}` +
    ` · fuse p99 ${n.stages_ms.fuse?.p99 ?? "–"} ms${errors}`);
}

function showEvents(now_s) {
  const list = $("events");
  for (const e of known.events) {
    if (e.item) continue;
    e.item = document.createElement("li");
    e.item.append(document.createElement("time"), document.createElement("span"));
    e.item.lastChild.textContent = `${e[2]}: ${e[3]} → ${e[4]}, ${e[5].replaceAll("_", " ")}${e[6] ? ` (${e[6]})` : ""}`;
    list.prepend(e.item);
  }
  while (list.childElementCount > 100) list.lastElementChild.remove();
  for (const e of known.events) set(e.item.firstChild, `${age(1000 * Math.max(0, now_s - e[1]))}`);
}

function age(ms) {
  if (ms < 950) return `${Math.round(ms)} ms`;
  if (ms < 119_500) return ms < 9950 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 1000)} s`;
  return ms < 7_199_000 ? `${Math.round(ms / 60_000)} min` : `${Math.round(ms / 3_600_000)} h`;
}

function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  theme = readTheme();
  for (const pane of Object.values(known.panes)) pane.drawn = null;
});
connect();
