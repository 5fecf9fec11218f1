// Charts of samples over time, drawn as SVG. All charts share one span and one cursor, so that the same moment can be read in each.
// Every chart can be read by pointer, by keyboard (it acts as a slider over time) and as a table.

import { element, fillTable, setAttribute, setText, svg } from "./dom.js";
import { GAP_MS, POLL_MS, ageText, clockText } from "./model.js";

const HEIGHT = 150;
const LEFT = 58;
const RIGHT = 10;
const TOP = 8;
const BOTTOM = 22;
// Points are at least this far apart, pixels: more cannot be told apart, and an hour has 1800 samples.
const POINT_WIDTH = 2;
const TABLE_ROWS = 12;
// Steps between labels of the time axis, ms.
const TIME_STEPS = [60_000, 120_000, 300_000, 600_000, 900_000, 1_800_000];

/** The charts of a page. `update` draws them all. */
export class Charts {
  constructor(parent, specs) {
    this.cursor = null;
    this.state = { samples: [], marks: [], span: 300_000, now: 0 };
    this.charts = specs.map((spec) => new Chart(spec, this));
    parent.append(...this.charts.map((chart) => chart.figure));
    new ResizeObserver(() => this.draw()).observe(parent);
  }

  /** `samples` by time; `marks` are {t, from, kind, text} with kind "checkpoint" or "restart"; `now` is the right edge, ms. */
  update(samples, marks, span, now) {
    this.state = { samples, marks, span, now };
    if (this.cursor !== null && this.cursor < now - span) this.cursor = null;
    this.draw();
  }

  /** Shows the values at a time, ms; null shows the newest. */
  point(time) {
    this.cursor = time;
    for (const chart of this.charts) chart.drawCursor(this.cursor);
  }

  draw() {
    // Widths are read before anything is changed: one layout, not one a chart.
    const widths = this.charts.map((chart) => chart.plot.clientWidth);
    this.charts.forEach((chart, at) => chart.draw(this.state, widths[at], this.cursor));
  }
}

class Chart {
  constructor(spec, all) {
    this.spec = spec;
    this.all = all;
    this.points = [];
    this.time = element("span", "time");
    this.values = spec.series.map(() => element("span", "value", "–"));
    const readings = spec.series.map((series, at) =>
      element("span", `reading ${series.look}`, "", element("span", "swatch"), element("span", "", `${series.label} `), this.values[at]));
    this.grid = svg("g", { class: "grid" });
    this.marks = svg("g", { class: "marks" });
    this.paths = spec.series.map((series) => svg("path", { class: `line ${series.look}` }));
    this.cursorLine = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM });
    this.dots = spec.series.map((series) => svg("circle", { class: `dot ${series.look}`, r: 3 }));
    this.picture = svg("svg", { height: HEIGHT, "aria-hidden": "true", focusable: "false" });
    this.picture.append(this.grid, this.marks, ...this.paths, this.cursorLine, ...this.dots);
    this.plot = element("div", "plot", "", this.picture);
    this.plot.tabIndex = 0;
    for (const [name, value] of [["role", "slider"], ["aria-label", `${spec.title}, ${spec.unit}: time`], ["aria-valuemin", "0"]]) {
      this.plot.setAttribute(name, value);
    }
    this.table = element("table", "grid");
    const scroll = element("div", "scroll", "", this.table);
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", `${spec.title} as a table`);
    this.details = element("details", "", "", element("summary", "", "As a table"), scroll);
    this.details.addEventListener("toggle", () => this.drawTable());
    const heading = element("h3", "", spec.title, element("span", "unit", ` ${spec.unit}${spec.log ? ", log scale" : ""}`));
    const caption = element("figcaption", "", "", heading, this.time);
    this.figure = element("figure", "chart", "", caption, element("p", "readings", "", ...readings), this.plot, this.details);
    this.plot.addEventListener("pointermove", (event) => this.all.point(this.timeAt(event.offsetX)));
    this.plot.addEventListener("pointerdown", (event) => this.all.point(this.timeAt(event.offsetX)));
    this.plot.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.all.point(null));
    this.plot.addEventListener("blur", () => this.all.point(null));
    this.plot.addEventListener("keydown", (event) => this.onKey(event));
  }

  onKey(event) {
    if (this.points.length === 0) return;
    const last = this.points.length - 1;
    const at = this.nearest(this.all.cursor);
    const steps = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1, PageDown: at - 10, PageUp: at + 10, Home: 0, End: last };
    if (event.key === "Escape") this.all.point(null);
    else if (event.key in steps) this.all.point(this.points[Math.min(last, Math.max(0, steps[event.key]))].t);
    else return;
    event.preventDefault();
  }

  timeAt(x) {
    const point = this.points[this.nearest(this.from + ((x - LEFT) / this.innerWidth) * this.span)];
    return point ? point.t : null;
  }

  /** The index of the point nearest to a time; of the last one for null. */
  nearest(time) {
    if (time === null) return this.points.length - 1;
    let best = 0;
    for (let at = 1; at < this.points.length; at += 1) {
      if (Math.abs(this.points[at].t - time) < Math.abs(this.points[best].t - time)) best = at;
    }
    return best;
  }

  draw({ samples, marks, span, now }, width, cursor) {
    this.span = span;
    this.from = now - span;
    this.innerWidth = Math.max(10, width - LEFT - RIGHT);
    this.points = this.gather(samples);
    this.scale = this.spec.log ? logScale(this.points) : linearScale(this.points, this.spec.least ?? 1);
    setAttribute(this.picture, "width", String(width));
    this.drawGrid(width);
    this.drawMarks(marks);
    this.paths.forEach((path, at) => setAttribute(path, "d", this.path(at)));
    this.drawCursor(cursor);
    this.drawTable();
  }

  /** Samples in bins whose edges stay where they are as time goes on, so that a line does not flicker. */
  gather(samples) {
    const width = Math.max(POLL_MS, (this.span / this.innerWidth) * POINT_WIDTH);
    const points = [];
    let bin = null;
    for (const sample of samples) {
      if (sample.t < this.from) continue;
      const number = Math.floor(sample.t / width);
      if (bin === null || bin.number !== number || sample.fresh) {
        bin = { number, t: sample.t, breaks: sample.fresh || (bin !== null && sample.t - bin.end > Math.max(GAP_MS, width)), rows: [] };
        points.push(bin);
      }
      bin.end = sample.t;
      bin.rows.push(sample);
    }
    for (const point of points) point.values = this.spec.series.map(({ key }) => gathered(point.rows, key, this.spec.mean));
    return points;
  }

  x(time) {
    return LEFT + ((time - this.from) / this.span) * this.innerWidth;
  }

  y(value) {
    return TOP + (1 - this.scale.place(value)) * (HEIGHT - TOP - BOTTOM);
  }

  path(series) {
    let path = "";
    let joined = false;
    for (const point of this.points) {
      const value = point.values[series];
      if (value === null) {
        joined = false;
        continue;
      }
      const at = `${this.x(point.t).toFixed(1)} ${this.y(value).toFixed(1)}`;
      // A point that nothing joins is drawn as a dot: a line of no length with round ends.
      path += joined && !point.breaks ? `L${at}` : `M${at}h0`;
      joined = true;
    }
    return path;
  }

  drawGrid(width) {
    const right = width - RIGHT;
    const lines = this.scale.ticks.flatMap((tick) => {
      const y = this.y(tick).toFixed(1);
      const label = svg("text", { x: LEFT - 6, y, class: "y" });
      label.textContent = this.spec.tick(tick);
      return [svg("line", { x1: LEFT, x2: right, y1: y, y2: y }), label];
    });
    const step = TIME_STEPS.find((each) => (each / this.span) * this.innerWidth >= 70) ?? this.span;
    for (let time = Math.ceil(this.from / step) * step; time <= this.from + this.span; time += step) {
      const x = this.x(time).toFixed(1);
      const label = svg("text", { x: Math.min(x, right - 14), y: HEIGHT - 6, class: "x" });
      label.textContent = clockText(time).slice(0, 5);
      lines.push(svg("line", { x1: x, x2: x, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM + 4 }), label);
    }
    this.grid.replaceChildren(...lines);
  }

  drawMarks(marks) {
    const shown = marks.filter((mark) => mark.t >= this.from && (mark.kind === "restart" || this.spec.checkpoints));
    this.marks.replaceChildren(...shown.map((mark) => {
      const from = Math.max(this.x(mark.from), LEFT);
      const width = Math.max(1.5, this.x(mark.t) - from);
      return svg("rect", { class: mark.kind, x: from.toFixed(1), width: width.toFixed(1), y: TOP, height: HEIGHT - TOP - BOTTOM });
    }));
    this.shownMarks = shown;
  }

  drawCursor(cursor) {
    const point = this.points[this.nearest(cursor)];
    const pointed = cursor !== null && point !== undefined;
    this.cursorLine.toggleAttribute("hidden", !pointed);
    for (const dot of this.dots) dot.toggleAttribute("hidden", true);
    setText(this.time, pointed ? clockText(point.t) : "now");
    this.values.forEach((value, at) => setText(value, point ? this.spec.format(point.values[at]) : "–"));
    if (!point) return;
    if (pointed) {
      const x = this.x(point.t).toFixed(1);
      setAttribute(this.cursorLine, "x1", x);
      setAttribute(this.cursorLine, "x2", x);
      this.dots.forEach((dot, at) => {
        if (point.values[at] === null) return;
        dot.toggleAttribute("hidden", false);
        setAttribute(dot, "cx", x);
        setAttribute(dot, "cy", this.y(point.values[at]).toFixed(1));
      });
    }
    const texts = this.spec.series.map(({ label }, at) => `${label} ${this.spec.format(point.values[at])}`);
    const near = this.shownMarks.filter((mark) => Math.abs(mark.t - point.t) < 2 * POLL_MS).map((mark) => mark.text);
    setAttribute(this.plot, "aria-valuemax", String(this.points.length - 1));
    setAttribute(this.plot, "aria-valuenow", String(this.nearest(cursor)));
    setAttribute(this.plot, "aria-valuetext", [clockText(point.t), ...texts, ...near].join(", "));
  }

  /** A few moments of the span, evenly spread, newest first. */
  drawTable() {
    if (!this.details.open) return;
    const step = Math.max(1, Math.ceil(this.points.length / TABLE_ROWS));
    const rows = [];
    for (let at = this.points.length - 1; at >= 0; at -= step) {
      const point = this.points[at];
      rows.push([clockText(point.t), ...point.values.map((value) => this.spec.format(value))]);
    }
    const head = [{ text: "time" }, ...this.spec.series.map(({ label }) => ({ text: label, className: "number" }))];
    if (this.spec.checkpoints) {
      head.push({ text: "checkpoints" });
      rows.forEach((row, at) => {
        const newest = this.points.length - 1 - at * step;
        const before = this.points[newest - step]?.t ?? this.from;
        const between = this.shownMarks.filter((mark) => mark.kind === "checkpoint" && mark.t > before && mark.t <= this.points[newest].t);
        row.push(between.map((mark) => ageText(mark.t - mark.from)).join(", ") || "–");
      });
    }
    fillTable(this.table, [head], rows);
  }
}

/** What a bin shows: the mean of rates and counts, the worst of latencies. */
function gathered(rows, key, mean) {
  const values = rows.map((row) => row[key]).filter((value) => value !== null && value !== undefined);
  if (values.length === 0) return null;
  return mean ? values.reduce((sum, value) => sum + value, 0) / values.length : Math.max(...values);
}

function valuesOf(points) {
  return points.flatMap((point) => point.values).filter((value) => value !== null);
}

/** From 0 to a round number above all values, with at most five lines. */
function linearScale(points, least) {
  const most = Math.max(least, ...valuesOf(points));
  const power = 10 ** Math.floor(Math.log10(most / 4));
  const step = Math.max([1, 2, 2.5, 5, 10].find((each) => each * power * 4 >= most) * power, least >= 1 && most <= 4 ? 1 : 0);
  const ticks = [];
  for (let at = 0; at === 0 || ticks.at(-1) < most; at += 1) ticks.push(at * step);
  return { ticks, place: (value) => value / ticks.at(-1) };
}

/** Whole decades around all values, at least two of them. */
function logScale(points) {
  const values = valuesOf(points).map((value) => Math.max(1, value));
  const low = values.length > 0 ? Math.floor(Math.log10(Math.min(...values))) : 2;
  const high = Math.max(low + 2, values.length > 0 ? Math.ceil(Math.log10(Math.max(...values))) : 4);
  const ticks = [];
  for (let decade = low; decade <= high; decade += 1) ticks.push(10 ** decade);
  return { ticks, place: (value) => (Math.log10(Math.max(1, value)) - low) / (high - low) };
}

/** The path of a sparkline: values of a span that ends now, from 0 to the largest of them. */
export function sparkPath(times, values, now, span, width, height) {
  const most = Math.max(1, ...values);
  let path = "";
  times.forEach((time, at) => {
    if (time < now - span) return;
    const x = (width - 2) * (1 - (now - time) / span) + 1;
    const y = height - 1.5 - (values[at] / most) * (height - 3);
    const joined = path !== "" && time - times[at - 1] <= GAP_MS;
    path += `${joined ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}${joined ? "" : "h0"}`;
  });
  return path;
}
