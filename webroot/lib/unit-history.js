/** How long units took lately: made of successive readings of `/metrics`. */

import { countOf, quantileOf, since } from "./prometheus.js";

const UNITS = "omni_unit_seconds";
const LATE = "omni_late_units_total";
/** Readings that are kept: five minutes at one every two seconds. */
const MAX_READINGS = 151;

/** @typedef {{atMs: number, units: import("./prometheus.js").Histogram, late: number}} Reading */
/** @typedef {{count: number, late: number, p50Ms: number|null, p95Ms: number|null}} UnitFigures */

export class UnitHistory {
  /** @type {Reading[]} */ #readings = [];

  /** @param {number} atMs @param {import("./prometheus.js").Metrics} metrics */
  add(atMs, metrics) {
    const reading = { atMs, units: metrics.histogram(UNITS), late: metrics.sum(LATE) };
    const last = this.#readings.at(-1);
    if (last && countOf(reading.units) < countOf(last.units)) this.#readings = []; // the server began anew
    this.#readings.push(reading);
    if (this.#readings.length > MAX_READINGS) this.#readings.shift();
  }

  /** What came in the last *ms*. @param {number} ms @returns {UnitFigures} */
  within(ms) {
    const last = this.#readings.at(-1);
    const first = this.#readings.find(({ atMs }) => last && atMs >= last.atMs - ms);
    return last && first ? between(first, last) : { count: 0, late: 0, p50Ms: null, p95Ms: null };
  }

  /** One entry for each pair of readings, the oldest first. @returns {UnitFigures[]} */
  steps() {
    return this.#readings.slice(1).map((reading, index) => between(this.#readings[index], reading));
  }
}

/** Each kind of conversation since the server began. @param {import("./prometheus.js").Metrics} metrics */
export function unitsByKind(metrics) {
  return metrics.valuesOf(`${UNITS}_count`, "kind").map((kind) => ({
    kind, ...figures(metrics.histogram(UNITS, { kind }), metrics.sum(LATE, { kind })),
  }));
}

/** @param {Reading} first @param {Reading} last @returns {UnitFigures} */
function between(first, last) {
  return figures(since(last.units, first.units), last.late - first.late);
}

/** @param {import("./prometheus.js").Histogram} units @param {number} late @returns {UnitFigures} */
function figures(units, late) {
  const inMs = (/** @type {number} */ q) => {
    const seconds = quantileOf(units, q);
    return seconds === null ? null : seconds * 1000;
  };
  return { count: countOf(units), late, p50Ms: inMs(0.5), p95Ms: inMs(0.95) };
}
