/**
 * Names and numbers of the wire: every event type, route and sample rate the pages use lives here.
 *
 * Sound travels as base64 of raw little-endian float32, mono: 16 kHz towards the server, 24 kHz back.
 */

/** Sample rate of captured sound, Hz. */
export const CAPTURE_RATE_HZ = 16000;
/** Sample rate of the model's speech, Hz. */
export const SPEECH_RATE_HZ = 24000;
/** Length of a chunk when `prepared` names none, ms. */
export const DEFAULT_CHUNK_MS = 1000;
/** Above this many unsent bytes a chunk is skipped rather than queued. */
export const MAX_BUFFERED_BYTES = 1 << 20;

export const ClientEvent = Object.freeze({
  PREPARE: "prepare",
  AUDIO_CHUNK: "audio_chunk",
  PAUSE: "pause",
  RESUME: "resume",
  INTERRUPT: "interrupt",
  STOP: "stop",
});

export const ServerEvent = Object.freeze({
  QUEUED: "queued",
  QUEUE_UPDATE: "queue_update",
  QUEUE_DONE: "queue_done",
  PREPARED: "prepared",
  RESULT: "result",
  TRANSCRIPT: "transcript",
  PAUSED: "paused",
  RESUMED: "resumed",
  INTERRUPTED: "interrupted",
  TIMEOUT: "timeout",
  STOPPED: "stopped",
  ERROR: "error",
  VAD_STATE: "vad_state",
  GENERATING: "generating",
  CHUNK: "chunk",
  TURN_DONE: "turn_done",
  PREFILL_DONE: "prefill_done",
  DONE: "done",
});

export const Route = Object.freeze({
  chat: () => "/ws/chat",
  duplex: (/** @type {string} */ id) => `/ws/duplex/${id}`,
  halfDuplex: (/** @type {string} */ id) => `/ws/half_duplex/${id}`,
  realtime: (/** @type {"r1"|"r2"|"openai"} */ dialect, /** @type {"audio"|"video"} */ mode) =>
    dialect === "openai" ? "/v1/realtime?model=any&dialect=openai" : `/v1/realtime?mode=${mode}&dialect=${dialect}`,
});

/**
 * A session id of the form the server sorts by: `adx_` audio duplex, `omni_` with pictures, `hdx_` half duplex.
 * @param {"adx"|"omni"|"hdx"} prefix
 * @param {number} [nowMs]
 * @param {() => number} [random] in [0, 1)
 */
export function newSessionId(prefix, nowMs = Date.now(), random = Math.random) {
  const salt = Math.floor(random() * 36 ** 4).toString(36).padStart(4, "0");
  return `${prefix}_${Math.floor(nowMs).toString(36)}${salt}`;
}

/**
 * @typedef {object} ResultMessage one answer to one audio chunk
 * @property {"result"} type
 * @property {boolean} is_listen
 * @property {string} [text]
 * @property {string|null} [audio_data]
 * @property {boolean} [end_of_turn]
 * @property {boolean} [interrupted] the server heard the user break in
 * @property {number} [wall_clock_ms]
 * @property {number} [cost_all_ms]
 * @property {number} [kv_cache_length]
 * @property {number} [vision_slices]
 * @property {number} [vision_tokens]
 * @property {number} [server_send_ts] Unix seconds
 */

/**
 * @typedef {object} QueueMessage
 * @property {string} type
 * @property {number} [position] 1-based
 * @property {number} [estimated_wait_s]
 * @property {number} [queue_length]
 */

/**
 * @typedef {object} FrontendDefaults
 * @property {number} playback_delay_ms
 * @property {"zh"|"en"} [default_lang]
 * @property {string} [engine]
 * @property {string} [model_name]
 * @property {string} [notice]
 * @property {string[]} [modes]
 * @property {boolean} [vision] it takes pictures
 * @property {boolean} [recording] conversations are kept on the server
 * @property {boolean} [transcribes] the user's words come as `transcript`
 */
