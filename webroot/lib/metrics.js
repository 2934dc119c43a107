/** Numbers of one session, taken on this side of the wire. */

/**
 * The *q* quantile by linear interpolation; null of nothing.
 * @param {readonly number[]} values
 * @param {number} q 0..1
 */
export function quantile(values, q) {
  if (!values.length) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const at = (sorted.length - 1) * q;
  const low = Math.floor(at);
  return sorted[low] + (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]) * (at - low);
}

/** Kept of each series; older values fall out. */
const MAX_VALUES = 4000;
/** A reply later than this after the user's words is no reply to them, ms. */
const MAX_REPLY_MS = 30000;

export class SessionMetrics {
  /** @type {() => number} */ #now;
  /** @type {number[]} */ #sentAtMs = [];
  /** @type {number[]} */ #unitMs = [];
  /** @type {number[]} */ #replyMs = [];
  /** @type {number|null} */ #speechEndMs = null;
  /** @type {number|null} */ #firstOffsetMs = null;
  #startMs;
  sent = 0;
  results = 0;
  skipped = 0;
  unknown = 0;
  turns = 0;
  interrupts = 0;
  driftMs = 0;
  kvTokens = 0;
  frames = 0;
  framesSkipped = 0;
  frameBytes = 0;
  visionSlices = 0;
  visionTokens = 0;
  /** @type {number|null} */ serverMs = null;

  /** @param {() => number} now ms */
  constructor(now) {
    this.#now = now;
    this.#startMs = now();
  }

  /** The session went live. */
  begin() {
    this.#startMs = this.#now();
  }

  chunkSent() {
    this.sent += 1;
    keep(this.#sentAtMs, this.#now());
  }

  /** A picture went with a chunk. @param {number} bytes */
  frameSent(bytes) {
    this.frames += 1;
    this.frameBytes = bytes;
  }

  /** Results carry no id: the oldest unanswered chunk is the one answered. @param {any} result */
  resultReceived(result) {
    this.results += 1;
    const sentAt = this.#sentAtMs.shift();
    if (sentAt !== undefined) keep(this.#unitMs, this.#now() - sentAt);
    this.serverMs = result.wall_clock_ms ?? result.cost_all_ms ?? this.serverMs;
    this.kvTokens = result.kv_cache_length ?? this.kvTokens;
    if (result.vision_slices) {
      this.visionSlices = result.vision_slices;
      this.visionTokens = result.vision_tokens ?? 0;
    }
    if (typeof result.server_send_ts !== "number") return;
    const offset = this.#now() - result.server_send_ts * 1000;
    this.#firstOffsetMs ??= offset;
    this.driftMs = offset - this.#firstOffsetMs;
  }

  /** @param {number} agoMs how long ago the user's last word ended */
  userStopped(agoMs) {
    this.#speechEndMs = this.#now() - agoMs;
  }

  userStarted() {
    this.#speechEndMs = null;
  }

  /** The first sound of an answer is heard. */
  replyHeard() {
    if (this.#speechEndMs === null) return;
    const ms = this.#now() - this.#speechEndMs;
    this.#speechEndMs = null;
    if (ms < MAX_REPLY_MS) keep(this.#replyMs, ms);
  }

  /** Chunks that have no answer yet. */
  get outstanding() {
    return this.sent - this.results;
  }

  get durationS() {
    return (this.#now() - this.#startMs) / 1000;
  }

  summary() {
    return {
      durationS: this.durationS,
      turns: this.turns,
      interrupts: this.interrupts,
      sent: this.sent,
      results: this.results,
      outstanding: this.outstanding,
      skipped: this.skipped,
      unknown: this.unknown,
      unitP50Ms: quantile(this.#unitMs, 0.5),
      unitP95Ms: quantile(this.#unitMs, 0.95),
      replyLastMs: this.#replyMs.at(-1) ?? null,
      replyP50Ms: quantile(this.#replyMs, 0.5),
      replyP95Ms: quantile(this.#replyMs, 0.95),
      serverMs: this.serverMs,
      driftMs: this.driftMs,
      kvTokens: this.kvTokens,
      frames: this.frames,
      framesSkipped: this.framesSkipped,
      frameBytes: this.frameBytes,
      visionSlices: this.visionSlices,
      visionTokens: this.visionTokens,
    };
  }
}

/** @param {number[]} values @param {number} value */
function keep(values, value) {
  values.push(value);
  if (values.length > MAX_VALUES) values.shift();
}
