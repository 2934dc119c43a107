/** What the operator's page asks of the server, and the loop that keeps asking. Knows no DOM. */

import { signInAgain } from "./api.js";
import { Metrics } from "./prometheus.js";

const TIMEOUT_MS = 8000;
/** An upload may be large and its way slow. */
const UPLOAD_TIMEOUT_MS = 120000;
const FIRST_RETRY_MS = 1000;
const MAX_RETRY_MS = 5000;

/**
 * @typedef {object} Answer
 * @property {number} status 0 where nothing answered
 * @property {any} value what came as JSON or text; null where it was neither
 * @property {string} error in the server's words, "" for success
 * @property {number} atMs the server's clock, to the second
 */

/**
 * One request. Never throws; without a valid key it leads to the sign-in.
 * @param {string} method @param {string} path @param {object} [body]
 * @returns {Promise<Answer>}
 */
export async function call(method, path, body) {
  try {
    const response = await fetch(path, {
      method,
      headers: body ? { "Content-Type": "application/json" } : {},
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(body ? UPLOAD_TIMEOUT_MS : TIMEOUT_MS),
    });
    if (response.status === 401) signInAgain();
    const isJson = response.headers.get("Content-Type")?.includes("json");
    const value = isJson ? await response.json() : await response.text();
    return { status: response.status, value, error: response.ok ? "" : errorIn(value), atMs: Date.parse(response.headers.get("Date") ?? "") || Date.now() };
  } catch (cause) {
    return { status: 0, value: null, error: String(cause), atMs: Date.now() };
  }
}

/** @param {any} value */
function errorIn(value) {
  if (typeof value?.error === "string") return value.error;
  return typeof value?.detail === "string" ? value.detail : "?";
}

const one = encodeURIComponent;

export const api = Object.freeze({
  cancelTicket: (/** @type {string} */ id) => call("DELETE", `/api/queue/${one(id)}`),
  endSession: (/** @type {string} */ id) => call("DELETE", `/api/admin/live/${one(id)}`),
  eta: () => call("GET", "/api/config/eta"),
  setEta: (/** @type {object} */ config) => call("PUT", "/api/config/eta", config),
  apps: () => call("GET", "/api/admin/apps"),
  switchApp: (/** @type {string} */ id, /** @type {boolean} */ enabled) => call("PUT", `/api/admin/apps/${one(id)}`, { enabled }),
  voices: () => call("GET", "/api/assets/ref_audio"),
  voicePath: (/** @type {string} */ id) => `/api/assets/ref_audio/${one(id)}`,
  addVoice: (/** @type {string} */ name, /** @type {string} */ audio) => call("POST", "/api/assets/ref_audio", { name, audio_base64: audio }),
  deleteVoice: (/** @type {string} */ id) => call("DELETE", `/api/assets/ref_audio/${one(id)}`),
  recordings: () => call("GET", "/api/sessions"),
  deleteRecording: (/** @type {string} */ id) => call("DELETE", `/api/sessions/${one(id)}`),
  exportPath: (/** @type {string} */ id) => `/api/sessions/${one(id)}/download`,
});

/**
 * @typedef {object} Task a conversation that holds a slot
 * @property {string} worker_id @property {string} request_type @property {string} session_id
 * @property {number} elapsed_s @property {number} estimated_remaining_s
 */
/**
 * @typedef {object} Ticket
 * @property {string} ticket_id @property {string} request_type @property {string} session_id
 * @property {number} position @property {number} estimated_wait_s @property {number} wait_elapsed_s
 */
/**
 * @typedef {object} Worker
 * @property {string} worker_id @property {string} host @property {string} gpu @property {number} pid
 * @property {string} status @property {string} state @property {number} num_slots @property {number} busy_slots
 * @property {number} total_requests @property {number} avg_inference_time_ms @property {number} restarts @property {string|null} model
 */
/** @typedef {{workers: Worker[], items: Ticket[], tasks: Task[], maxQueue: number, metrics: Metrics, version: string, serverMs: number}} Live */

/** Everything that changes by the second; null when the server does not answer, or not fully. @returns {Promise<Live|null>} */
export async function readLive() {
  const paths = ["/workers", "/api/queue", "/metrics", "/health"];
  const answers = await Promise.all(paths.map((path) => call("GET", path)));
  if (answers.some(({ status }) => status !== 200)) return null;
  const [{ workers }, queue, metrics, { version }] = answers.map(({ value }) => value);
  return { workers, items: queue.items, tasks: queue.running_tasks, maxQueue: queue.max_queue_size, metrics: new Metrics(metrics), version, serverMs: answers[0].atMs };
}

/**
 * Reads again and again until *signal*; `show` gets null each time that nothing came. Reads nothing while nobody looks.
 * @template T
 * @param {{read: () => Promise<T|null>, show: (value: T|null) => void, everyMs: number, isWatched: () => Promise<void>, signal?: AbortSignal}} parts
 */
export async function follow({ read, show, everyMs, isWatched, signal }) {
  let retryMs = FIRST_RETRY_MS;
  while (!signal?.aborted) {
    await isWatched();
    const value = await read();
    if (signal?.aborted) return;
    show(value);
    await new Promise((resolve) => setTimeout(resolve, value === null ? retryMs : everyMs));
    retryMs = value === null ? Math.min(MAX_RETRY_MS, retryMs * 1.5) : FIRST_RETRY_MS;
  }
}
