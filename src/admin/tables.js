// The tables below the charts: latency of every metric and window, shards, settings.

import { byId, fillTable, setText } from "./dom.js";
import { WINDOWS, bytesText, countText, microsText, percentText } from "./model.js";

const WINDOW_TEXTS = { "10s": "last 10 s", "1m": "last minute", "5m": "last 5 min", total: "since the start" };
const COMPARED = { p50: "p50", p99: "p99", p999: "p99.9" };
const DETAILED = { mean: "mean", p50: "p50", p90: "p90", p99: "p99", p999: "p99.9", max: "max" };

/** Fills the latency table: all windows with few percentiles, or one window with everything. */
export function showLatency({ metrics }, window) {
  const number = (text, first = false) => ({ text, className: first ? "number first" : "number" });
  // What is not there is a dash: a window in which nothing was measured has no percentiles.
  const read = (metric, name, value) => {
    const found = metric.windows[name];
    return found && found.count > 0 ? microsText(found[value]) : "–";
  };
  if (window !== "") {
    const head = [{ text: "metric" }, number("count", true), ...Object.values(DETAILED).map((text) => number(text))];
    const values = (metric) => Object.keys(DETAILED).map((value) => read(metric, window, value));
    const rows = metrics.map((metric) => [metric.name, countText(metric.windows[window]?.count), ...values(metric)]);
    fillTable(byId("latency"), [head], rows);
    return;
  }
  const group = (name) => ({ text: WINDOW_TEXTS[name], span: Object.keys(COMPARED).length, className: "first" });
  const groups = [{ text: "" }, ...WINDOWS.map(group)];
  const head = [{ text: "metric" }, ...WINDOWS.flatMap(() => Object.values(COMPARED).map((text, at) => number(text, at === 0)))];
  const values = (metric) => WINDOWS.flatMap((name) => Object.keys(COMPARED).map((value) => read(metric, name, value)));
  const rows = metrics.map((metric) => [metric.name, ...values(metric)]);
  fillTable(byId("latency"), [groups, head], rows);
}

/** Fills the table of shards. */
export function showShards({ shards }) {
  const numbers = ["connections", "queues", "ready", "memory", "journal", "of", "records", "written", "under way", "pressure", "waiters"];
  const head = [{ text: "shard" }, ...numbers.map((text) => ({ text, className: "number" }))];
  const rows = shards.map(({ journal, ...shard }) => [
    String(shard.shard),
    countText(shard.connections),
    countText(shard.queues),
    countText(shard.ready),
    bytesText(shard.memory_used),
    bytesText(journal?.used),
    bytesText(journal?.capacity),
    countText(journal?.records),
    bytesText(journal?.bytes),
    countText(journal?.under_way),
    percentText(shard.pressure),
    countText(shard.waiters),
  ]);
  fillTable(byId("shards"), [head], rows);
  setText(byId("shards-note"), "pressure: how full the shard's journal and buffers are; puts wait at 100 %");
}

/** Fills the list of settings. */
export function showSettings({ settings }) {
  const rows = Object.entries(settings).map(([name, value]) => [name, String(value)]);
  fillTable(byId("settings"), [[{ text: "setting" }, { text: "value" }]], rows);
}
