// Samples, what is concluded from them, and how numbers are written. Pure: no document, no network, no clock.

/** Time between two polls, ms. */
export const POLL_MS = 2000;
/** How long samples are kept, ms. */
export const KEPT_MS = 3_600_000;
/** Two samples further apart than this are not joined by a line, ms. */
export const GAP_MS = 3 * POLL_MS;

/** The latency windows in the order of their length. */
export const WINDOWS = ["10s", "1m", "5m", "total"];

/** A restart: another process, or the same pid (as in a container) started at another time. */
export function isRestart(before, now) {
  return before.pid !== now.pid || Math.abs(before.started_ms - now.started_ms) > 1000;
}

/** A percentile of the window of ten seconds, µs; null when nothing was measured in it. */
export function recent(latency, metric, percentile) {
  const found = latency?.metrics?.find((each) => each.name === metric)?.windows?.["10s"];
  return found && found.count > 0 ? found[percentile] : null;
}

/**
 * One reading. Rates come from two readings of counters: after a restart, and after `stats reset`, which both set counters back,
 * there is none until the next reading.
 */
export function sampleOf(overview, latency, before) {
  const fresh = before === null || isRestart(before, overview);
  const seconds = fresh ? 0 : (overview.time_ms - before.time_ms) / 1000;
  const rate = (name) => {
    const grown = fresh ? -1 : overview.totals[name] - before.totals[name];
    return seconds > 0 && grown >= 0 ? grown / seconds : null;
  };
  return {
    t: overview.time_ms,
    fresh,
    puts: rate("puts"),
    gets: rate("gets"),
    ready: overview.ready,
    connections: overview.connections.current,
    waiters: overview.waiters,
    put50: recent(latency, "put", "p50"),
    put99: recent(latency, "put", "p99"),
    put999: recent(latency, "put", "p999"),
    get50: recent(latency, "get_hit", "p50"),
    get99: recent(latency, "get_hit", "p99"),
    get999: recent(latency, "get_hit", "p999"),
    write99: recent(latency, "journal_write", "p99"),
    commit99: recent(latency, "commit", "p99"),
    store99: recent(latency, "store_commit", "p99"),
    backlog: overview.checkpoints.backlog,
    running: overview.checkpoints.running,
  };
}

/** Whether a queue's oldest message waits for long enough to be worth a look. Younger ones are a burst. */
export function isOld(queue) {
  return queue.oldest_ms >= OLD_MS;
}

/**
 * The queue that grows and is worth a look, and by how much, by its rates of the last 10 s; null when none grows. One that is old
 * goes before any burst, which may grow faster but is nobody's trouble; otherwise it is the one that grows fastest.
 */
export function growingQueue(queues) {
  let best = null;
  for (const queue of queues) {
    const growth = queue.put_rate - queue.get_rate;
    if (growth < GROWTH_MIN) continue;
    const older = best === null ? 1 : isOld(queue) - isOld(best.queue);
    if (older > 0 || (older === 0 && growth > best.growth)) best = { queue, growth };
  }
  return best;
}

/** The queue whose first message is oldest; null when all are empty. */
export function oldestOf(queues) {
  let best = null;
  for (const queue of queues) {
    if (queue.oldest_ms !== null && (best === null || queue.oldest_ms > best.oldest_ms)) best = queue;
  }
  return best;
}

// A put slower than this at p99 asks for a reason, µs. Group commit on a usual SSD stays well below.
const SLOW_PUT_US = 10_000;
// The disk is the reason for slow puts if a journal write takes at least this part of a put's time. The rest of a put is waiting for
// the record before, so two writes in a row make up most of it.
const DISK_SHARE = 0.4;
// A growing queue is worth a look once its oldest message is this old, ms.
const OLD_MS = 10_000;
// A queue that grows by less than this in a second does not grow.
const GROWTH_MIN = 0.1;
// A journal this full will soon make puts wait for checkpoints.
const JOURNAL_FULL = 0.75;
// The checkpoint backlog counts as growing if it rose over this many readings, never fell, and a checkpoint was under way all the time:
// between two checkpoints it always rises.
const BACKLOG_READINGS = 10;

/**
 * What is going on, as lines of {level, text}; level is "ok", "watch" or "trouble", text a list of strings and of {queue: name}.
 * The rules, in the order of the lines:
 *  1. Queues: one that grows (puts less gets of the last 10 s) with its oldest message: "watch" if that is older than OLD_MS, and such
 *     a one is chosen before others. If none grows, the oldest message of all.
 *  2. Space: puts refused, or free space under its minimum, is "trouble"; under twice the minimum "watch".
 *  3. Checkpoints: a journal fuller than JOURNAL_FULL, or a backlog that only rose lately, is "watch": the store is what is slow.
 *  4. Puts: up to SLOW_PUT_US at p99 all is well. Above it is "watch", and the disk is the reason if journal_write's p99 is DISK_SHARE of
 *     put's or more. Otherwise the longest other stage is named. With -N puts do not wait for the disk, so it is not blamed.
 *  5. Connections refused and damaged messages, if there are any, are "watch" and "trouble".
 */
export function verdict({ overview, latency, growing, oldest, samples, rejectedLately }) {
  return [
    queueLine(growing, oldest, overview.time_ms),
    ...spaceLines(overview),
    ...checkpointLines(overview, samples),
    putLine(overview, latency),
    ...rareLines(overview, rejectedLately),
  ];
}

function queueLine(growing, oldest, now) {
  const waits = (queue) => `waits for ${ageText(queue.oldest_ms)}, since ${clockText(now - queue.oldest_ms, now)}`;
  if (growing) {
    const text = [{ queue: growing.queue.name }, ` grows by ${rateText(growing.growth)} messages a second.`];
    if (growing.queue.oldest_ms !== null) text.push(` Its oldest message ${waits(growing.queue)}.`);
    return { level: isOld(growing.queue) ? "watch" : "ok", text };
  }
  if (oldest) {
    return { level: "ok", text: ["No queue grows. The oldest message is in ", { queue: oldest.name }, ` and ${waits(oldest)}.`] };
  }
  return { level: "ok", text: ["No queue grows, and none holds a message."] };
}

function spaceLines({ journal, disk }) {
  const free = `${bytesText(disk.free)} free, ${bytesText(disk.min_free)} is the minimum`;
  if (journal.refuses_puts) {
    return [{ level: "trouble", text: [`Puts are refused: there is no room for them (${free}). Gets still work.`] }];
  }
  if (disk.free < disk.min_free) return [{ level: "trouble", text: [`The disk is full: ${free}.`] }];
  if (disk.free < 2 * disk.min_free) return [{ level: "watch", text: [`The disk is nearly full: ${free}.`] }];
  return [];
}

function checkpointLines({ journal, checkpoints }, samples) {
  const used = journal.capacity > 0 ? journal.used / journal.capacity : 0;
  const lately = samples.slice(-BACKLOG_READINGS);
  const rises = lately.length === BACKLOG_READINGS && lately.every(({ backlog, running }, at) => running && (at === 0 || backlog >= lately[at - 1].backlog));
  if (used >= JOURNAL_FULL) {
    return [{ level: "watch", text: [`Checkpoints do not keep up: the journal is ${percentText(used)} full. The disk is the reason.`] }];
  }
  if (rises && lately.at(-1).backlog > lately[0].backlog) {
    const backlog = bytesText(checkpoints.backlog);
    return [{ level: "watch", text: [`A checkpoint is under way and its backlog only grows (${backlog}): the store is slower than the puts.`] }];
  }
  return [];
}

const OTHER_STAGES = {
  journal_collect: "collecting for the journal",
  forward: "requests between shards",
  store_load: "reading from the store",
};

function putLine({ durable, journal }, latency) {
  if (journal.refuses_puts) return { level: "ok", text: ["The disk's latency is not the question while puts are refused."] };
  const put = recent(latency, "put", "p99");
  const write = recent(latency, "journal_write", "p99");
  if (put === null) return { level: "ok", text: ["No puts in the last 10 s."] };
  const took = `99 of 100 puts take up to ${microsText(put)}`;
  const share = write === null ? "" : `, journal writes ${microsText(write)}`;
  if (put <= SLOW_PUT_US) return { level: "ok", text: [`Puts are quick and the disk keeps up: ${took}${share}.`] };
  if (durable && write !== null && write >= DISK_SHARE * put) {
    return { level: "watch", text: [`Puts are slow and the disk is the reason: ${took}${share}.`] };
  }
  const stages = Object.keys(OTHER_STAGES).map((name) => ({ name, took: recent(latency, name, "p99") ?? 0 }));
  const longest = stages.reduce((best, stage) => (stage.took > best.took ? stage : best));
  const reason = longest.took >= DISK_SHARE * put ? ` Most of it may be ${OTHER_STAGES[longest.name]} (${microsText(longest.took)}).` : "";
  return { level: "watch", text: [`Puts are slow, but not because of the disk: ${took}${share}.${reason}`] };
}

function rareLines({ totals, connections }, rejectedLately) {
  const lines = [];
  if (rejectedLately) lines.push({ level: "watch", text: [`Connections are refused: the limit is ${countText(connections.max)}.`] });
  if (totals.corrupt > 0) lines.push({ level: "trouble", text: [`${countText(totals.corrupt)} messages were damaged on the disk and set aside.`] });
  return lines;
}

/** The worst level of some lines. */
export function worst(lines) {
  return ["trouble", "watch"].find((level) => lines.some((line) => line.level === level)) ?? "ok";
}

// How numbers are written. Three digits that matter: more would flicker without being read. A unit stays on the
// line of its number.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

function digits(value) {
  return value >= 100 ? whole.format(value) : short.format(value);
}

/** A count; a dash when there is none. */
export function countText(value) {
  return value === null || value === undefined ? "–" : whole.format(value);
}

/** A rate per second. */
export function rateText(value) {
  if (value === null || value === undefined) return "–";
  return value !== 0 && Math.abs(value) < 10 ? value.toFixed(1) : whole.format(value);
}

/** A count for the axis of a chart, short enough for its margin. */
export function tickText(value) {
  return compact.format(value);
}

/** Microseconds for the axis of a chart: whole decades. */
export function microsTickText(us) {
  return us < 1000 ? `${us}\u00a0µs` : us < 1_000_000 ? `${us / 1000}\u00a0ms` : `${us / 1_000_000}\u00a0s`;
}

/** A part of one as a percentage. */
export function percentText(value) {
  return `${digits(value * 100)}\u00a0%`;
}

/** Bytes in binary units. */
export function bytesText(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = 0;
  let size = value;
  for (; size >= 999.5 && at < units.length - 1; at += 1) size /= 1024;
  return `${at === 0 ? whole.format(size) : size.toPrecision(3)}\u00a0${units[at]}`;
}

/** Microseconds in the unit that fits. */
export function microsText(us) {
  if (us === null || us === undefined) return "–";
  if (us < 1000) return `${digits(us)}\u00a0µs`;
  // Rounded first, so that it is never 1000 of the smaller unit.
  if (us < 999_500) return `${(us / 1000).toPrecision(3)}\u00a0ms`;
  return us < 99_950_000 ? `${(us / 1_000_000).toPrecision(3)}\u00a0s` : ageText(us / 1000);
}

/** An age or a span, ms, in its two largest units. */
export function ageText(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${Math.max(0, Math.round(ms))}\u00a0ms`;
  const s = Math.floor(ms / 1000);
  if (s < 10) return `${(Math.floor(ms / 100) / 10).toFixed(1)}\u00a0s`;
  if (s < 60) return `${s}\u00a0s`;
  if (s < 3600) return `${Math.floor(s / 60)}\u00a0min ${s % 60}\u00a0s`;
  if (s < 86_400) return `${Math.floor(s / 3600)}\u00a0h ${Math.floor((s % 3600) / 60)}\u00a0min`;
  return `${Math.floor(s / 86_400)}\u00a0d ${Math.floor((s % 86_400) / 3600)}\u00a0h`;
}

/** A time of day of the reader's place; with the date when it is not within the last day of `now`. */
export function clockText(ms, now = ms) {
  const date = new Date(ms);
  const two = (value) => String(value).padStart(2, "0");
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return now - ms < 86_400_000 ? time : `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${time}`;
}

// Control characters, direction marks and what has no width: in a name they would hide or reorder what is beside them.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/gu;

/** A name as it can be read: what cannot be seen is written as its code. */
export function nameText(name) {
  if (name === "") return "(empty)";
  return name.replace(UNSEEN, (unseen) => `\\u{${unseen.codePointAt(0).toString(16)}}`);
}
