/** A recorded session: what the server keeps of it, and its turns on one clock. Knows no DOM. */

import { getJson } from "./api.js";

/** What was recorded of a long call is a few megabytes. */
const TIMEOUT_MS = 60000;
const RETRY_MS = 1500;
const MAX_RETRY_MS = 10000;
const UPLOADS = /** @type {const} */ (["frontend_replay.mp4", "frontend_replay.webm", "frontend_replay.wav"]);
/** What the model has for one unit: beyond it the next one is late. */
export const UNIT_MS = 1000;

/** @typedef {{mode: "LISTEN"|"SPEAK", timing: Record<string, number|null>, text?: string, ai_audio?: string, end_of_turn?: boolean}} Result */
/** @typedef {{index: number, receive_ts_ms: number, replay_ts_ms?: number, user_audio?: string, user_frame?: string, result?: Result}} Chunk */
/** @typedef {{turn_index: number, request_ts_ms: number, input: Record<string, any>, output: Record<string, any>, timing: Record<string, number>}} Turn */
/**
 * @typedef {object} Recording
 * @property {string} mode
 * @property {Chunk[]} [chunks]
 * @property {Turn[]} [turns]
 * @property {{ts_ms: number, text: string}[]} [transcripts]
 * @property {string} [merged_replay]
 * @property {string} [merged_replay_video]
 * @property {string} [merged_captions]
 * @property {string} [merged_peaks]
 * @property {boolean} [complete]
 * @property {number} [dropped_records]
 */
/** @typedef {{session_id: string, app_type: string, title: string, created_at: string, duration_s: number|null, worker_id: number, config: Record<string, any>}} Meta */
/** @typedef {{bins_per_s: number, user: number[], ai: number[]}} Peaks 0 to 100 */
/** @typedef {{who: "user"|"ai", atMs: number, text: string}} Saying */

export class RecordedSession {
  /** @param {string} id */
  constructor(id) {
    this.id = id;
    this.path = `/api/sessions/${encodeURIComponent(id)}`;
  }

  /** The address of one of its files. @param {string} name */
  asset(name) {
    return `${this.path}/assets/${name.split("/").map(encodeURIComponent).join("/")}`;
  }

  get downloadPath() {
    return `${this.path}/download`;
  }

  /** @returns {Promise<Meta|null>} */
  async meta() {
    return getJson(this.path, TIMEOUT_MS);
  }

  /** null while the session runs or its files are being made. @returns {Promise<Recording|null>} */
  async recording() {
    return getJson(`${this.path}/recording`, TIMEOUT_MS);
  }

  /**
   * The recording as soon as it is there, and once more when its replay is.
   * @param {(recording: Recording|null) => void} show called with null once, if it is not there yet
   * @param {AbortSignal} [signal]
   */
  async follow(show, signal) {
    let shown = "";
    for (let pauseMs = RETRY_MS; !signal?.aborted; pauseMs = Math.min(pauseMs * 1.5, MAX_RETRY_MS)) {
      const recording = await this.recording();
      const state = recording ? JSON.stringify([recording.merged_replay, recording.merged_replay_video]) : "absent";
      if (state !== shown) show(recording);
      shown = state;
      if (recording && (!recording.chunks?.length || recording.merged_replay)) return;
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  }

  /** @param {string} name @returns {Promise<Peaks|null>} */
  async peaks(name) {
    return getJson(this.asset(name), TIMEOUT_MS);
  }

  /** The names of what a client uploaded. @returns {Promise<string[]>} */
  async uploads() {
    const found = await Promise.all(UPLOADS.map(async (name) => ((await isThere(this.asset(name))) ? name : "")));
    return found.filter(Boolean);
  }

  async comment() {
    return (await getJson(`${this.path}/comment`))?.comment ?? "";
  }

  /** True when the server has it. @param {string} text */
  async saveComment(text) {
    try {
      const headers = { "Content-Type": "application/json" };
      const reply = await fetch(`${this.path}/comment`, { method: "POST", headers, body: JSON.stringify({ comment: text }) });
      return reply.ok;
    } catch {
      return false;
    }
  }
}

/**
 * What was said in a full-duplex session, in the order of the replay: an answer's units make one saying.
 * @param {Recording} recording @returns {Saying[]}
 */
export function sayings(recording) {
  const chunks = recording.chunks ?? [];
  /** @type {Saying[]} */ const said = [];
  /** @type {Saying|null} */ let open = null;
  for (const chunk of chunks) {
    const result = chunk.result;
    if (result?.mode !== "SPEAK") {
      open = null;
      continue;
    }
    if (!open) said.push((open = { who: "ai", atMs: replayMs(chunk), text: "" }));
    open.text += result.text ?? "";
    if (result.end_of_turn) open = null;
  }
  for (const { ts_ms, text } of recording.transcripts ?? []) said.push({ who: "user", atMs: onReplay(chunks, ts_ms), text });
  return said.filter(({ text }) => text.trim()).sort((a, b) => a.atMs - b.atMs);
}

/** @param {Chunk} chunk */
export function replayMs(chunk) {
  return chunk.replay_ts_ms ?? chunk.index * UNIT_MS;
}

/** Where a moment of the session lies in the replay. @param {Chunk[]} chunks @param {number} ms */
function onReplay(chunks, ms) {
  const last = chunks.findLast(({ receive_ts_ms }) => receive_ts_ms <= ms);
  return last ? replayMs(last) : 0;
}

/**
 * How long the answers to the units took.
 * @param {Recording} recording
 * @returns {{count: number, p50: number, p95: number, max: number, values: {ms: number, speaks: boolean}[]}|null}
 */
export function latency(recording) {
  const values = (recording.chunks ?? [])
    .filter(({ result }) => typeof result?.timing.wall_clock_ms === "number")
    .map(({ result }) => ({ ms: /** @type {number} */ (result?.timing.wall_clock_ms), speaks: result?.mode === "SPEAK" }));
  if (!values.length) return null;
  const sorted = values.map(({ ms }) => ms).sort((a, b) => a - b);
  /** @param {number} part */
  const at = (part) => sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))];
  return { count: values.length, p50: at(0.5), p95: at(0.95), max: at(1), values };
}

/** @param {string} path */
async function isThere(path) {
  try {
    return (await fetch(path, { method: "HEAD" })).ok;
  } catch {
    return false;
  }
}
