/** The events of a call, as many as a person can look at: old ones fall out, and what is long is cut. */

/** Rows that are kept. */
const MAX_ROWS = 500;
/** Longer texts (sound, pictures) keep their beginning. */
const MAX_CHARS = 240;
const KEPT_CHARS = 48;
const MAX_ITEMS = 40;
/** What is said many times a second: runs of it are one row. */
const FOLDED = ["input_audio_buffer.append", "input.append"];

/** @typedef {import("./realtime.js").CallEvent} CallEvent */
/** @typedef {{id: number, direction: "in"|"out", type: string, atMs: number, numBytes: number, latencyMs: number|null, count: number, note: string, message: any}} Row */

export class EventLog {
  /** @type {Row[]} */ rows = [];
  #nextId = 1;

  /** @param {number} [maxRows] */
  constructor(maxRows = MAX_ROWS) {
    this.maxRows = maxRows;
  }

  /**
   * Keep one event. `row` is new, or the last one with a higher count; `gone` fell out.
   * @param {CallEvent} event
   * @returns {{row: Row, isNew: boolean, gone: Row|null}}
   */
  add({ direction, message, numBytes, atMs, latencyMs }) {
    const type = String(message.type ?? "");
    const last = this.rows.at(-1);
    if (last && FOLDED.includes(type) && last.type === type && last.direction === direction) {
      Object.assign(last, { count: last.count + 1, numBytes: last.numBytes + numBytes, message: shortened(message) });
      return { row: last, isNew: false, gone: null };
    }
    const row = { id: this.#nextId++, direction, type, atMs, numBytes, latencyMs, count: 1, note: noteOf(message), message: shortened(message) };
    this.rows.push(row);
    const gone = this.rows.length > this.maxRows ? /** @type {Row} */ (this.rows.shift()) : null;
    return { row, isNew: true, gone };
  }

  clear() {
    this.rows = [];
  }

  /** One JSON object a line. @param {(row: Row) => boolean} [isWanted] */
  asText(isWanted = () => true) {
    const lines = this.rows.filter(isWanted).map(({ direction, atMs, latencyMs, count, message }) =>
      JSON.stringify({ at_ms: Math.round(atMs), direction, ...(latencyMs === null ? {} : { latency_ms: Math.round(latencyMs) }), ...(count > 1 ? { count } : {}), event: message }));
    return lines.join("\n");
  }
}

/**
 * Whether a row is looked for. A word that begins with a minus must not be there.
 * @param {Row} row @param {{direction: "all"|"in"|"out", words: string}} filter
 */
export function isShown(row, { direction, words }) {
  if (direction !== "all" && direction !== row.direction) return false;
  const text = `${row.type} ${row.note}`.toLowerCase();
  return words.toLowerCase().split(/\s+/).filter(Boolean).every((word) =>
    word.startsWith("-") ? word.length < 2 || !text.includes(word.slice(1)) : text.includes(word));
}

/** *value* with long texts and lists cut. @param {any} value @returns {any} */
export function shortened(value) {
  if (typeof value === "string" && value.length > MAX_CHARS) return `${value.slice(0, KEPT_CHARS)}… (${value.length} characters)`;
  if (Array.isArray(value)) {
    const items = value.slice(0, MAX_ITEMS).map(shortened);
    return value.length > MAX_ITEMS ? [...items, `… (${value.length} items)`] : items;
  }
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, shortened(item)]));
}

/** The words of an event that say most, in short. @param {any} event */
function noteOf(event) {
  const parts = [
    event.kind, event.text, event.transcript, event.error?.message ?? (typeof event.error === "string" ? event.error : ""), event.reason,
    typeof event.delta === "string" && /text|transcript/.test(event.type) ? event.delta : "",
    event.session_id, event.position ? `#${event.position}` : "", event.end_of_turn ? "end_of_turn" : "", (event.input ?? event).force_listen ? "force_listen" : "",
    (event.input ?? event).video_frames?.length ? `${(event.input ?? event).video_frames.length} × jpeg` : "", event.response?.status,
  ];
  return parts.filter((part) => typeof part === "string" && part.trim()).join(" · ").slice(0, MAX_CHARS);
}
