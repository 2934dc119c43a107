import assert from "node:assert/strict";
import { test } from "node:test";

import { formatBytes, formatSpan } from "../../webroot/lib/format.js";
import { Metrics, countOf, quantileOf, since } from "../../webroot/lib/prometheus.js";
import { UnitHistory, unitsByKind } from "../../webroot/lib/unit-history.js";

/** The text of a histogram with one value in each of the given places, and *late* late units. */
function told(seconds, late = 0, kind = "audio_duplex") {
  const bounds = [0.1, 0.5, 1, Infinity];
  const lines = bounds.map((bound) => {
    const count = seconds.filter((value) => value <= bound).length;
    return `omni_unit_seconds_bucket{kind="${kind}",le="${bound === Infinity ? "+Inf" : bound}"} ${count}.0`;
  });
  lines.push(`omni_unit_seconds_count{kind="${kind}"} ${seconds.length}.0`, `omni_late_units_total{kind="${kind}"} ${late}.0`);
  return `# HELP omni_unit_seconds words\n# TYPE omni_unit_seconds histogram\n${lines.join("\n")}\n`;
}

test("metrics are read with their labels, whatever stands in them", () => {
  const metrics = new Metrics('up 1.0\nslots{worker="w \\"0\\" \\\\ {a}",state="busy"} 2\nslots{worker="b",state="free"} 3e2\nlag +Inf\n');

  assert.equal(metrics.sum("up"), 1);
  assert.equal(metrics.sum("slots"), 302);
  assert.equal(metrics.samples("slots", { state: "busy" })[0].labels.worker, 'w "0" \\ {a}');
  assert.equal(metrics.sum("lag"), Infinity);
  assert.equal(metrics.sum("nothing"), 0);
});

test("a quantile lies within its bucket, and beyond the last bound is that bound", () => {
  const histogram = new Metrics(told([0.05, 0.2, 0.3, 0.4])).histogram("omni_unit_seconds");

  assert.equal(countOf(histogram), 4);
  assert.equal(quantileOf(histogram, 0.25), 0.1);
  assert.ok(quantileOf(histogram, 0.5) > 0.1 && quantileOf(histogram, 0.5) < 0.5);
  assert.equal(quantileOf(new Metrics(told([7])).histogram("omni_unit_seconds"), 0.5), 1);
  assert.equal(quantileOf([], 0.5), null);
});

test("the difference of two readings is what came between them", () => {
  const [earlier, later] = [[0.05], [0.05, 0.7, 0.8]].map((values) => new Metrics(told(values)).histogram("omni_unit_seconds"));

  assert.equal(countOf(since(later, earlier)), 2);
  assert.ok(quantileOf(since(later, earlier), 0.5) > 0.5);
});

test("figures of the last minute leave out what is older", () => {
  const history = new UnitHistory();
  history.add(0, new Metrics(told([0.05, 0.05, 0.05])));
  history.add(60_000, new Metrics(told([0.05, 0.05, 0.05])));
  history.add(120_000, new Metrics(told([0.05, 0.05, 0.05, 0.9, 0.9], 2)));

  const figures = history.within(60_000);
  assert.deepEqual([figures.count, figures.late], [2, 2]);
  assert.ok(figures.p50Ms > 500);
  assert.deepEqual(history.steps().map(({ count }) => count), [0, 2]);
});

test("a server that began anew begins a new history", () => {
  const history = new UnitHistory();
  history.add(0, new Metrics(told([0.05, 0.05])));
  history.add(2000, new Metrics(told([])));
  history.add(4000, new Metrics(told([0.2])));

  assert.deepEqual(history.steps().map(({ count }) => count), [1]);
  assert.equal(history.within(60_000).late, 0);
});

test("the history is bounded", () => {
  const history = new UnitHistory();
  for (let i = 0; i < 400; i += 1) history.add(i, new Metrics(told([])));

  assert.equal(history.steps().length, 150);
});

test("kinds of conversation are told apart", () => {
  const metrics = new Metrics(told([0.05]) + told([0.7, 0.7], 1, "omni_duplex"));

  assert.deepEqual(unitsByKind(metrics).map(({ kind, count, late }) => [kind, count, late]), [["audio_duplex", 1, 0], ["omni_duplex", 2, 1]]);
});

test("bytes and times are short, in the reader's language", () => {
  assert.deepEqual([0, 999, 1200, 45_600_000, 3e12].map((n) => formatBytes(n, "en")), ["0 B", "999 B", "1.2 kB", "46 MB", "3 TB"]);
  assert.deepEqual([0, 42, 65, 7500, 90_061].map((s) => formatSpan(s, "en")), ["0s", "42s", "1m 5s", "2h 5m", "1d 1h"]);
  assert.equal(formatSpan(65, "zh").replace(/\s/g, ""), "1分钟5秒");
});
