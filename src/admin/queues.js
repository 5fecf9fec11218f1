// The table of queues. The server sorts, filters and cuts; the page keeps the rows where they are while somebody reads them, and draws
// each queue's depth from the answers it has seen.

import { sparkPath } from "./charts.js";
import { byId, element, setAttribute, setText, svg } from "./dom.js";
import { POLL_MS, ageText, bytesText, countText, isOld, nameText, rateText } from "./model.js";

const ROWS_DEFAULT = 200;
const ROWS_STEP = 200;
// More rows than this nobody reads, and a browser would spend its time on them: the filter finds the rest.
const ROWS_MAX = 1000;
/** How far back a sparkline goes, ms. */
const SPARK_MS = 300_000;
const SPARK_LEN = SPARK_MS / POLL_MS;
const SPARK_WIDTH = 96;
const SPARK_HEIGHT = 18;
// Queues whose depths are kept, so that a page that is open for days does not grow with queues that came and went.
const HISTORIES_MAX = 2 * ROWS_MAX;
// The trend compares with the depth this long ago, ms.
const TREND_MS = 20_000;
// Of a queue's puts, what its depth has to change by to be more than coming and going.
const TREND_SHARE_MIN = 0.01;
const FILTER_DELAY_MS = 200;

/** What identifies a queue: its id, as its name may not be unique once it has been made readable. */
export function idOf(queue) {
  return queue.id ?? `${queue.shard}/${queue.name}`;
}

export class QueueTable {
  /** `changed` is called when the server has to be asked anew, `act` with "purge" or "delete" and a queue. */
  constructor({ changed, act }) {
    this.changed = changed;
    this.act = act;
    this.sort = "ready";
    this.order = "desc";
    this.limit = ROWS_DEFAULT;
    this.rows = new Map();
    this.histories = new Map();
    this.reorder = true;
    this.pointed = false;
    this.actions = false;
    this.body = byId("queue-rows");
    this.hold = byId("hold");
    this.listen();
    this.showSort();
  }

  listen() {
    for (const th of document.querySelectorAll("#queues th[data-sort]")) {
      th.firstElementChild.addEventListener("click", () => this.sortBy(th.dataset.sort));
    }
    let timer = 0;
    byId("filter").addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.ask(), FILTER_DELAY_MS);
    });
    byId("more").addEventListener("click", () => {
      this.limit = Math.min(ROWS_MAX, this.limit + ROWS_STEP);
      this.ask();
    });
    this.hold.addEventListener("click", () => {
      this.hold.setAttribute("aria-pressed", String(!this.isHeldByButton()));
    });
    this.body.addEventListener("pointerenter", (event) => (this.pointed = event.pointerType === "mouse"));
    this.body.addEventListener("pointerleave", () => (this.pointed = false));
  }

  sortBy(column) {
    const first = column === "name" ? "asc" : "desc";
    const turned = this.order === "asc" ? "desc" : "asc";
    this.order = column === this.sort ? turned : first;
    this.sort = column;
    this.showSort();
    this.ask();
  }

  showSort() {
    for (const th of document.querySelectorAll("#queues th[data-sort]")) {
      if (th.dataset.sort === this.sort) th.setAttribute("aria-sort", this.order === "asc" ? "ascending" : "descending");
      else th.removeAttribute("aria-sort");
    }
  }

  /** Asks the server anew, and lets rows move for this once. */
  ask() {
    this.reorder = true;
    this.changed();
  }

  get filter() {
    return byId("filter").value.trim();
  }

  /** The request's query. */
  query() {
    return new URLSearchParams({ filter: this.filter, sort: this.sort, order: this.order, limit: this.limit }).toString();
  }

  isHeldByButton() {
    return this.hold.getAttribute("aria-pressed") === "true";
  }

  /** Whether rows keep their places: somebody asked for it, points at one, or has the focus in one. */
  isHeld() {
    return !this.reorder && (this.isHeldByButton() || this.pointed || this.body.contains(document.activeElement));
  }

  /** Shows an answer that was read at `now`, ms; `actions` says whether rows have buttons. */
  show({ total, matched, queues }, now, actions) {
    if (actions !== this.actions) this.setActions(actions);
    for (const queue of queues) this.remember(queue, now);
    this.forget();
    const held = this.isHeld();
    this.reorder = false;
    const focused = this.body.contains(document.activeElement) ? document.activeElement : null;
    const present = new Set(queues.map(idOf));
    for (const [id, row] of this.rows) {
      // A held row whose queue left the answer stays, greyed: taking it away would move what is being read.
      row.tr.classList.toggle("left", held && !present.has(id));
      if (!held && !present.has(id)) {
        row.tr.remove();
        this.rows.delete(id);
      }
    }
    queues.forEach((queue, at) => {
      const row = this.rows.get(idOf(queue)) ?? this.newRow(queue);
      this.fill(row, queue, now);
      if (held) {
        if (!row.tr.isConnected) this.body.append(row.tr);
      } else if (this.body.rows[at] !== row.tr) {
        this.body.insertBefore(row.tr, this.body.rows[at] ?? null);
      }
    });
    this.showNote(total, matched, queues.length, held);
    // Moving a row takes the focus from it; one that has gone leaves it to the heading, not to the start of the page.
    if (focused !== null && document.activeElement !== focused) (focused.isConnected ? focused : byId("queues-title")).focus();
  }

  showNote(total, matched, shown, held) {
    const parts = [];
    if (matched < total) parts.push(`${countText(matched)} of ${countText(total)} queues match`);
    else parts.push(total === 1 ? "1 queue" : `${countText(total)} queues`);
    if (shown < matched) parts.push(`the first ${countText(shown)} are shown`);
    if (shown < matched && this.limit >= ROWS_MAX) parts.push("filter to see others");
    if (held) parts.push(this.isHeldByButton() ? "order held" : "order held while you are on a row");
    setText(byId("queues-note"), parts.join(", "));
    byId("more").hidden = shown >= matched || this.limit >= ROWS_MAX;
  }

  newRow(queue) {
    const cell = (className) => element("td", className);
    const name = element("bdi");
    const path = svg("path", { class: "line" });
    const spark = svg("svg", { class: "spark", width: SPARK_WIDTH, height: SPARK_HEIGHT, "aria-hidden": "true", focusable: "false" });
    spark.append(path);
    const trend = element("span", "trend");
    const row = {
      name,
      path,
      trend,
      ready: cell("number strong"),
      oldest: cell("number"),
      puts: cell("number"),
      gets: cell("number"),
      bytes: cell("number bytes"),
      waiters: cell("number waiters"),
    };
    const head = element("th", "name", "", name);
    head.scope = "row";
    const depth = element("td", "depth", "", element("span", "depth-box", "", spark, trend));
    row.tr = element("tr", "", "", head, row.ready, row.oldest, depth, row.puts, row.gets, row.bytes, row.waiters);
    if (this.actions) this.addActions(row, queue);
    this.rows.set(idOf(queue), row);
    return row;
  }

  fill(row, queue, now) {
    const name = nameText(queue.name);
    setText(row.name, name);
    setAttribute(row.name, "title", name);
    setText(row.ready, countText(queue.ready));
    setText(row.oldest, ageText(queue.oldest_ms));
    setText(row.puts, rateText(queue.put_rate));
    setText(row.gets, rateText(queue.get_rate));
    setText(row.bytes, bytesText(queue.bytes));
    setText(row.waiters, countText(queue.waiters));
    const { times, depths } = this.histories.get(idOf(queue));
    setAttribute(row.path, "d", sparkPath(times, depths, now, SPARK_MS, SPARK_WIDTH, SPARK_HEIGHT));
    const growth = growthOf(times, depths, now);
    const steady = growth === null || Math.abs(growth) < Math.max(0.05, TREND_SHARE_MIN * queue.put_rate);
    const arrow = growth > 0 ? "↑" : "↓";
    setText(row.trend, steady ? "" : `${arrow} ${rateText(Math.abs(growth))}/s`);
    setAttribute(row.trend, "class", !steady && growth > 0 && isOld(queue) ? "trend watch" : "trend");
  }

  remember(queue, now) {
    const id = idOf(queue);
    const history = this.histories.get(id) ?? { times: [], depths: [] };
    // Put in again, so that the map's order is that of the last sight.
    this.histories.delete(id);
    this.histories.set(id, history);
    if (now < history.times.at(-1)) {
      history.times.length = 0;
      history.depths.length = 0;
    }
    if (now === history.times.at(-1)) return;
    history.times.push(now);
    history.depths.push(queue.ready);
    if (history.times.length > SPARK_LEN) {
      history.times.shift();
      history.depths.shift();
    }
  }

  forget() {
    for (const id of this.histories.keys()) {
      if (this.histories.size <= HISTORIES_MAX) return;
      this.histories.delete(id);
    }
  }

  setActions(actions) {
    this.actions = actions;
    document.querySelector("#queues th.actions").hidden = !actions;
    this.rows.clear();
    this.body.replaceChildren();
  }

  addActions(row, queue) {
    const button = (action) => {
      const made = element("button", "small", `${action}…`);
      made.type = "button";
      made.setAttribute("aria-label", `${action} ${nameText(queue.name)}`);
      made.addEventListener("click", () => this.act(action, { id: idOf(queue), name: queue.name }));
      return made;
    };
    row.tr.append(element("td", "actions", "", button("purge"), button("delete")));
  }
}

/** Messages a second by which a queue grew lately; null before there are two readings. */
function growthOf(times, depths, now) {
  const last = times.length - 1;
  const from = times.findIndex((time) => time >= now - TREND_MS);
  if (from < 0 || from >= last) return null;
  return ((depths[last] - depths[from]) * 1000) / (times[last] - times[from]);
}
