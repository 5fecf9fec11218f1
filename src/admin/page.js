// The dashboard: asks the server every POLL_MS, keeps an hour of samples in memory, and shows what is known even when the server does
// not answer. It rests while its tab is hidden. What is concluded is in model.js.

import { confirmCheckpoint, confirmQueueAction, initActions } from "./actions.js";
import { Charts } from "./charts.js";
import { byId, element, setText } from "./dom.js";
import {
  KEPT_MS, POLL_MS, ageText, bytesText, clockText, countText, growingQueue, isRestart, microsText, microsTickText, nameText, oldestOf,
  percentText, rateText, recent, sampleOf, tickText, verdict, worst,
} from "./model.js";
import { QueueTable } from "./queues.js";
import { showLatency, showSettings, showShards } from "./tables.js";

// An answer that takes longer than this is none, ms.
const TIMEOUT_MS = 5000;
// What the verdict needs from all queues is asked for every this many polls when the table does not show them all.
const VERDICT_POLLS = 3;
// Queues that are looked at for one that grows: none grows faster than it is put to, so these are the candidates.
const CANDIDATES = 50;

const CHARTS = [
  { title: "Throughput", unit: "messages/s", format: rateText, tick: tickText, mean: true,
    series: [{ key: "puts", label: "puts", look: "a" }, { key: "gets", label: "gets", look: "b" }] },
  { title: "Ready", unit: "messages in all queues", format: countText, tick: tickText, mean: true, least: 4, series: [{ key: "ready", label: "ready", look: "a" }] },
  { title: "Put latency", unit: "last 10 s", format: microsText, tick: microsTickText, log: true,
    series: [{ key: "put50", label: "p50", look: "a" }, { key: "put99", label: "p99", look: "b" }, { key: "put999", label: "p99.9", look: "c" }] },
  { title: "Get latency", unit: "hits, last 10 s", format: microsText, tick: microsTickText, log: true,
    series: [{ key: "get50", label: "p50", look: "a" }, { key: "get99", label: "p99", look: "b" }, { key: "get999", label: "p99.9", look: "c" }] },
  { title: "Disk", unit: "p99, last 10 s; bars: checkpoints", format: microsText, tick: microsTickText, log: true, checkpoints: true,
    series: [{ key: "write99", label: "journal", look: "a" }, { key: "commit99", label: "commit", look: "b" },
      { key: "store99", label: "store", look: "c" }] },
  { title: "Connections", unit: "open, and gets that wait", format: countText, tick: tickText, mean: true, least: 4,
    series: [{ key: "connections", label: "connections", look: "a" }, { key: "waiters", label: "waiting gets", look: "b" }] },
];

const state = {
  /** The last answers; null before the first. */
  overview: null,
  latency: null,
  samples: [],
  marks: [],
  rejectedLately: false,
  growing: null,
  oldest: null,
  /** The version of the server this page came from. */
  version: null,
  settingsKnown: false,
  /** performance.now() of the last overview, and of when the page last began to ask. */
  answered: null,
  begun: performance.now(),
  /** Whether the last poll brought no overview; what of it failed beside that. */
  failed: false,
  partial: [],
  polls: 0,
  level: null,
};

let polling = false;
let pollAgain = false;
let timer = 0;

const table = new QueueTable({ changed: () => poll(), act: (action, queue) => confirmQueueAction(action, queue, () => table.ask()) });
const charts = new Charts(byId("charts"), CHARTS);

function start() {
  initActions();
  byId("checkpoint").addEventListener("click", () => confirmCheckpoint(poll));
  byId("notice-close").addEventListener("click", () => (byId("notice").hidden = true));
  byId("span").addEventListener("change", showCharts);
  byId("window").addEventListener("change", () => state.latency && showLatency(state.latency, chosen("window")));
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (document.hidden) return;
    // Nobody asked while the tab was hidden, so that was no silence.
    if (!state.failed) state.begun = performance.now();
    poll();
  });
  // The age of the last answer goes on by itself.
  setInterval(showState, 1000);
  poll();
}

function chosen(name) {
  return document.querySelector(`input[name="${name}"]:checked`).value;
}

async function ask(path) {
  const answer = await fetch(`api/v1/${path}`, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (answer.ok) return answer.json();
  const body = await answer.json().catch(() => ({}));
  throw new Error(`${path.split("?")[0]}: ${body.error ?? `the server answered ${answer.status}`}`);
}

/** One poll, and the next one after it. A poll that is asked for meanwhile follows at once. */
async function poll() {
  if (polling) {
    pollAgain = true;
    return;
  }
  polling = true;
  clearTimeout(timer);
  const began = performance.now();
  try {
    await read();
  } catch (error) {
    console.error(error);
    notify(`This page cannot show what the server answered: ${error.message}.`);
  } finally {
    polling = false;
    const again = pollAgain;
    pollAgain = false;
    if (!document.hidden) timer = setTimeout(poll, again ? 0 : Math.max(200, POLL_MS - (performance.now() - began)));
  }
}

async function read() {
  const query = table.query();
  const paths = ["overview", "latency", `queues?${query}`, "shards"];
  if (!state.settingsKnown) paths.push("settings");
  const answers = await Promise.allSettled(paths.map(ask));
  const [overview, latency, queues, shards, settings] = answers.map((answer) => (answer.status === "fulfilled" ? answer.value : null));
  state.partial = answers.filter((answer) => answer.status === "rejected").map((answer) => answer.reason.message);
  state.failed = overview === null;
  if (state.failed) {
    showState();
    return;
  }
  state.answered = performance.now();
  onOverview(overview, latency);
  if (latency) showLatency(latency, chosen("window"));
  if (shards) showShards(shards);
  if (settings) {
    showSettings(settings);
    state.settingsKnown = true;
  }
  // An answer to a question that has changed meanwhile would undo the change until the next one.
  if (queues && query === table.query()) table.show(queues, overview.time_ms, overview.actions === true);
  await judge(queues);
  state.polls += 1;
  showState();
  showIdentity();
  showFacts();
  showCharts();
  showVerdict();
}

function onOverview(overview, latency) {
  const before = state.overview;
  const restarted = before !== null && isRestart(before, overview);
  if (restarted) onRestart(before, overview);
  state.version ??= overview.version;
  state.rejectedLately = before !== null && !restarted && overview.connections.rejected > before.connections.rejected;
  const { last_end_ms: end, last_took_ms: took } = overview.checkpoints;
  if (before !== null && end > 0 && (restarted || end !== before.checkpoints.last_end_ms)) {
    state.marks.push({ t: end, from: end - took, kind: "checkpoint", text: `checkpoint took ${ageText(took)}` });
  }
  const sample = sampleOf(overview, latency, before);
  // A server whose clock was set back would draw over what is there.
  if (state.samples.length > 0 && sample.t <= state.samples.at(-1).t) state.samples = state.samples.filter((each) => each.t < sample.t);
  state.samples.push(sample);
  const oldest = overview.time_ms - KEPT_MS;
  while (state.samples[0].t < oldest) state.samples.shift();
  while (state.marks.length > 0 && state.marks[0].t < oldest) state.marks.shift();
  state.overview = overview;
  state.latency = latency ?? state.latency;
}

function onRestart(before, overview) {
  state.settingsKnown = false;
  state.marks.push({ t: overview.started_ms, from: overview.started_ms, kind: "restart", text: "restart" });
  let text = `The server restarted at ${clockText(overview.started_ms)}. Its counters began anew.`;
  if (overview.version !== state.version) text += ` It is version ${overview.version} now, this page is from ${state.version}: reload it.`;
  notify(text);
}

/** A notice that stays until it is dismissed. */
function notify(text) {
  setText(byId("notice-text"), text);
  byId("notice").hidden = false;
  announce(text);
}

/** Finds a queue that grows and the oldest message, from the table if it has all queues. */
async function judge(queues) {
  if (queues && queues.queues.length === queues.total) {
    state.growing = growingQueue(queues.queues);
    state.oldest = oldestOf(queues.queues);
    return;
  }
  if (state.polls % VERDICT_POLLS !== 0) return;
  const top = (sort, limit) => ask(`queues?${new URLSearchParams({ filter: "", sort, order: "desc", limit })}`);
  const [busiest, oldest] = await Promise.allSettled([top("put_rate", CANDIDATES), top("oldest", 1)]);
  if (busiest.status === "fulfilled") state.growing = growingQueue(busiest.value.queues);
  if (oldest.status === "fulfilled") state.oldest = oldestOf(oldest.value.queues);
}

/** Whether the server is there; values of one that is not stay, greyed. */
function showState() {
  if (document.hidden) {
    setText(byId("state-text"), "paused");
    return;
  }
  const silent = Math.round((performance.now() - Math.max(state.answered ?? 0, state.begun)) / 1000);
  // A poll that fails at once counts after the time of one; one that hangs, when its time is over.
  const lost = state.failed ? state.answered === null || silent * 1000 >= POLL_MS : silent * 1000 > TIMEOUT_MS + POLL_MS;
  const wasLost = document.body.classList.contains("lost");
  document.body.classList.toggle("lost", lost && state.overview !== null);
  document.body.classList.toggle("waiting", state.overview === null);
  let text = "live";
  if (lost) text = `no answer for ${silentText(silent)}`;
  else if (state.overview === null) text = "connecting";
  else if (state.partial.length > 0) text = "live, in part";
  setText(byId("state-text"), text);
  byId("state").dataset.state = lost ? "lost" : text === "live" ? "live" : "partial";
  document.title = `${lost ? "No answer: " : ""}RingQ ${location.host}`;
  if (lost) showSilence(silent);
  if (wasLost && !lost) announce("The server answers again.");
}

function showSilence(silent) {
  const values = state.overview === null ? "" : `: showing the values of ${clockText(state.overview.time_ms)}`;
  const text = `No answer for ${silentText(silent)}${values}. Asking again every ${POLL_MS / 1000} s.`;
  if (state.level !== "lost") announce("The server does not answer.");
  showLines("lost", "No answer", [{ level: "lost", text: [text] }]);
}

/** Seconds that are counted as they pass. */
function silentText(seconds) {
  return seconds < 60 ? `${seconds} s` : ageText(seconds * 1000);
}

function showVerdict() {
  if (document.body.classList.contains("lost")) return;
  const lines = verdict(state);
  if (state.partial.length > 0) lines.push({ level: "watch", text: [`Some values could not be read: ${state.partial.join("; ")}.`] });
  const level = worst(lines);
  const texts = { ok: "All well", watch: "Worth a look", trouble: "Trouble" };
  if (state.level !== null && level !== state.level) announce(texts[level]);
  showLines(level, texts[level], lines);
}

function showLines(level, title, lines) {
  state.level = level;
  byId("verdict").dataset.level = level;
  setText(byId("verdict-level"), title);
  const list = byId("verdict-lines");
  while (list.children.length > lines.length) list.lastElementChild.remove();
  while (list.children.length < lines.length) list.append(element("li"));
  lines.forEach((line, at) => {
    const item = list.children[at];
    item.className = line.level;
    const parts = line.text.map((part) => (typeof part === "string" ? part : element("bdi", "queue", nameText(part.queue))));
    const made = element("li", "", "", ...parts);
    if (!item.isEqualNode(made) && item.textContent !== made.textContent) item.replaceChildren(...made.childNodes);
  });
}

function announce(text) {
  setText(byId("announcer"), text);
}

function showIdentity() {
  const { version, pid, uptime_s: uptime, durable } = state.overview;
  setText(byId("version"), version);
  setText(byId("host"), `${location.host}, pid ${pid}`);
  setText(byId("uptime"), `up ${ageText(uptime * 1000)}`);
  setText(byId("durability"), durable ? "durable" : "-N: not synced");
  byId("durability").title = durable ? "STORED waits for the disk" : "STORED waits for the operating system only: a power cut may lose messages";
  byId("checkpoint").hidden = state.overview.actions !== true;
}

function showFacts() {
  const { overview, latency } = state;
  const sample = state.samples.at(-1);
  const { connections, memory, journal, checkpoints, disk } = overview;
  const ended = checkpoints.last_end_ms > 0;
  const part = (used, all) => (all > 0 ? `${percentText(used / all)} of ${bytesText(all)}` : "");
  const facts = [
    ["Ready", countText(overview.ready), `in ${countText(overview.queues)} queues`],
    ["Oldest", ageText(state.oldest?.oldest_ms), state.oldest ? `in ${nameText(state.oldest.name)}` : "no message"],
    ["In", `${rateText(sample.puts)}/s`, `${countText(overview.totals.puts)} puts`],
    ["Out", `${rateText(sample.gets)}/s`, `${countText(overview.totals.gets)} gets`],
    ["Put p99", microsText(recent(latency, "put", "p99")), "last 10 s"],
    ["Get p99", microsText(recent(latency, "get_hit", "p99")), "hits, last 10 s"],
    ["Connections", countText(connections.current), `${countText(overview.waiters)} waiting gets`],
    ["Memory", bytesText(memory.used), part(memory.used, memory.limit)],
    ["Journal", bytesText(journal.used), part(journal.used, journal.capacity)],
    ["Checkpoint", checkpoints.running ? "running" : ended ? `${ageText(Math.max(0, overview.time_ms - checkpoints.last_end_ms))} ago` : "–",
      ended ? `took ${ageText(checkpoints.last_took_ms)}` : "none yet"],
    ["Backlog", bytesText(checkpoints.backlog), "for checkpoints"],
    ["Disk free", bytesText(disk.free), `minimum ${bytesText(disk.min_free)}`],
  ];
  const list = byId("facts");
  if (list.children.length === 0) {
    list.append(...facts.map(([name]) => element("div", "", "", element("dt", "", name), element("dd", "value"), element("dd", "note"))));
  }
  facts.forEach(([, value, note], at) => {
    setText(list.children[at].children[1], value);
    setText(list.children[at].children[2], note);
  });
}

function showCharts() {
  if (state.overview !== null) charts.update(state.samples, state.marks, Number(chosen("span")), state.overview.time_ms);
}

start();
