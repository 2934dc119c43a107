/** Reads `/metrics`: Prometheus' text format, with histograms. */

const LINE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** @typedef {Record<string, string>} Labels */
/** @typedef {{labels: Labels, value: number}} Sample */
/** @typedef {{bound: number, count: number}[]} Histogram values up to each bound, ascending; the last bound is Infinity */

export class Metrics {
  /** @type {Map<string, Sample[]>} */ #samples = new Map();

  /** @param {string} text as the server wrote it */
  constructor(text) {
    for (const line of text.split("\n")) {
      const match = line.startsWith("#") ? null : LINE.exec(line);
      if (match) this.#add(match[1], { labels: labelsOf(match[2] ?? ""), value: Number(match[3].replace("Inf", "Infinity")) });
    }
  }

  /** The samples of *name* whose labels are as in *where*. @param {string} name @param {Labels} [where] */
  samples(name, where = {}) {
    const wanted = Object.entries(where);
    return (this.#samples.get(name) ?? []).filter(({ labels }) => wanted.every(([key, value]) => labels[key] === value));
  }

  /** Their sum; 0 of none. @param {string} name @param {Labels} [where] */
  sum(name, where) {
    return this.samples(name, where).reduce((total, { value }) => total + value, 0);
  }

  /** All series of a histogram together. @param {string} name @param {Labels} [where] @returns {Histogram} */
  histogram(name, where) {
    /** @type {Map<number, number>} */ const counts = new Map();
    for (const { labels, value } of this.samples(`${name}_bucket`, where)) {
      const bound = Number(labels.le.replace("Inf", "Infinity"));
      counts.set(bound, (counts.get(bound) ?? 0) + value);
    }
    return [...counts].map(([bound, count]) => ({ bound, count })).sort((a, b) => a.bound - b.bound);
  }

  /** The values that *label* has in *name*. @param {string} name @param {string} label */
  valuesOf(name, label) {
    return [...new Set(this.samples(name).map(({ labels }) => labels[label]))].sort();
  }

  /** @param {string} name @param {Sample} sample */
  #add(name, sample) {
    const known = this.#samples.get(name);
    if (known) known.push(sample);
    else this.#samples.set(name, [sample]);
  }
}

/** @param {string} text @returns {Labels} */
function labelsOf(text) {
  const pairs = [...text.matchAll(LABEL)].map(([, name, value]) => [name, value.replace(/\\(.)/g, (_, sign) => (sign === "n" ? "\n" : sign))]);
  return Object.fromEntries(pairs);
}

/** How many values a histogram has. @param {Histogram} histogram */
export function countOf(histogram) {
  return histogram.at(-1)?.count ?? 0;
}

/** What came between two readings of one histogram. @param {Histogram} later @param {Histogram} earlier @returns {Histogram} */
export function since(later, earlier) {
  const before = new Map(earlier.map(({ bound, count }) => [bound, count]));
  return later.map(({ bound, count }) => ({ bound, count: count - (before.get(bound) ?? 0) }));
}

/**
 * The *q* quantile, by linear interpolation within its bucket; null of nothing. Above the last bound that bound is all that is known.
 * @param {Histogram} histogram
 * @param {number} q 0..1
 */
export function quantileOf(histogram, q) {
  const rank = countOf(histogram) * q;
  if (!rank) return null;
  let lower = { bound: 0, count: 0 };
  for (const upper of histogram) {
    if (upper.count >= rank && upper.count > lower.count) {
      if (upper.bound === Infinity) return lower.bound;
      return lower.bound + ((upper.bound - lower.bound) * (rank - lower.count)) / (upper.count - lower.count);
    }
    lower = upper;
  }
  return lower.bound;
}
