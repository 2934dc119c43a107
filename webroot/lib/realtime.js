/** A call on `/v1/realtime` that shows each event of both sides, with its time. Knows no DOM. */

import { SessionError } from "./errors.js";
import { quantile } from "./metrics.js";
import { CAPTURE_RATE_HZ, MAX_BUFFERED_BYTES } from "./protocol.js";
import { dialectOf } from "./realtime-dialects.js";

/** Longest wait for the server's own close, ms. */
const CLOSE_TIMEOUT_MS = 1000;
/** Longest wait from the handshake to an open session outside of the line, ms. */
const OPEN_TIMEOUT_MS = 60000;
const MAX_OPEN_QUESTIONS = 100;
const MAX_TIMES = 500;

/** @typedef {"idle"|"permission"|"connecting"|"queued"|"opening"|"open"|"closing"|"closed"} CallState */
/** @typedef {import("./realtime-dialects.js").CallOptions & {dialect: import("./realtime-dialects.js").DialectName, sound: "microphone"|"silence", [key: string]: any}} Options */
/** @typedef {{direction: "in"|"out", message: any, numBytes: number, atMs: number, latencyMs: number|null}} CallEvent */
/**
 * @typedef {object} CallParts
 * @property {(url: string, handlers: import("./ws.js").SocketHandlers) => import("./session.js").SocketLike} makeSocket
 * @property {any} capture Capture
 * @property {any} player Player
 * @property {() => number} now ms
 * @property {() => Promise<boolean>} isServerUp
 * @property {(() => Promise<string|null>)|null} grab a picture as base64 JPEG; null without a camera
 */

/** Events, all CustomEvent: `state` (CallState), `event` (CallEvent), `said` {who, text, endsTurn}, `queue` {position, waitS}. */
export class RealtimeCall extends EventTarget {
  /** @type {CallState} */ state = "idle";
  /** @type {SessionError|null} */ error = null;
  /** How the socket ended, as the server said it. */
  ending = "";
  kvTokens = 0;
  bytes = { in: 0, out: 0 };
  counts = { in: 0, out: 0 };
  isMuted = false;
  #parts; #startMs = 0;
  /** @type {import("./realtime-dialects.js").Dialect|null} */ #dialect = null;
  /** @type {any} */ #socket = null;
  /** @type {number[]} when each thing was said that has no answer yet */ #askedMs = [];
  /** @type {number[]} */ #timesMs = [];
  /** Answers to what was said before an interruption: their sound is not played. */
  #staleAnswers = 0;
  #isForced = false;
  /** @type {any} */ #silence = null;
  /** @type {any} */ #timer = null;

  /** @param {CallParts} parts */
  constructor(parts) {
    super();
    this.#parts = parts;
  }

  get isOver() {
    return this.state === "closed";
  }

  get durationMs() {
    return this.#startMs ? this.#parts.now() - this.#startMs : 0;
  }

  /** Times to answers, ms, the newest last. */
  get timesMs() {
    return this.#timesMs;
  }

  summary() {
    const times = this.#timesMs;
    return { lastMs: times.at(-1) ?? null, p50Ms: quantile(times, 0.5), p95Ms: quantile(times, 0.95), numAnswers: times.length };
  }

  /** Settles when connected or failed; what went wrong is in `error`. @param {Options} options */
  async start(options) {
    this.#dialect = dialectOf(options.dialect, options);
    this.#become("permission");
    try {
      await this.#parts.player.open(options);
      if (options.sound === "microphone") await this.#parts.capture.open(options);
      if (this.state !== "permission") return this.#release();
      this.#become("connecting");
      await this.#connect(this.#dialect.path, options);
    } catch (cause) {
      this.#fail(await this.#explained(SessionError.from(cause)));
    }
  }

  /** Send one event as it is; false when there is no connection. @param {object} message */
  send(message) {
    if (!this.#socket?.send(message)) return false;
    if (/** @type {any} */ (message).type === "response.create") this.#ask();
    this.#note("out", message, JSON.stringify(message).length, null);
    return true;
  }

  /** Silence the model now, and let it listen. */
  interrupt() {
    if (this.state !== "open" || !this.#dialect) return;
    this.#parts.player.cut();
    if (this.#dialect.interruption) return void this.send(this.#dialect.interruption);
    this.#isForced = true;
    this.#staleAnswers = this.#askedMs.length;
  }

  /** End the call, or what comes before it. */
  stop() {
    if (this.isOver || this.state === "closing") return;
    const wasOpen = this.state === "open";
    this.#become("closing");
    this.#stopSound();
    this.#parts.player.cut();
    if (!(wasOpen && this.#dialect?.farewell && this.send(this.#dialect.farewell))) return this.#finish();
    this.#timer = setTimeout(() => this.#finish(), CLOSE_TIMEOUT_MS);
  }

  /** @param {string} path @param {Options} options */
  async #connect(path, options) {
    this.#startMs = this.#parts.now();
    this.#socket = this.#parts.makeSocket(path, {
      onMessage: (message, numChars) => this.#receive(message, numChars, options),
      onClose: ({ code, reason }) => this.#closed(code, reason),
    });
    this.#limitOpening();
    await this.#socket.open();
  }

  #limitOpening() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#fail(new SessionError("timeout", "the session was not opened within a minute")), OPEN_TIMEOUT_MS);
  }

  /** A refused handshake says nothing to a page; whether the server lives does. @param {SessionError} error */
  async #explained(error) {
    const isRefused = error.code === "unreachable" && (await this.#parts.isServerUp());
    return isRefused ? new SessionError("refused", error.detail) : error;
  }

  /** @param {any} message @param {number} numChars @param {Options} options */
  #receive(message, numChars, options) {
    if (this.isOver || !this.#dialect) return;
    const heard = this.#understood(message);
    this.#note("in", message, numChars, heard.answers ? this.#answered() : null);
    if (heard.queue) this.#wait(heard.queue);
    if (heard.asksOpening && ["connecting", "queued"].includes(this.state)) this.#open();
    if (heard.isOpen && this.state === "opening") this.#goLive(options);
    if (heard.asks) this.#ask();
    if (heard.closed !== undefined) this.ending = heard.closed;
    if (heard.error) this.#dispatch("trouble", heard.error);
    this.kvTokens = heard.kvTokens ?? this.kvTokens;
    this.#play(heard);
  }

  /** @param {any} message @returns {import("./realtime-dialects.js").Heard} */
  #understood(message) {
    try {
      return /** @type {import("./realtime-dialects.js").Dialect} */ (this.#dialect).hear(message);
    } catch (cause) {
      this.#dispatch("trouble", String(cause));
      return {};
    }
  }

  /** @param {import("./realtime-dialects.js").Heard} heard */
  #play({ sound, text, userText, cuts, endsTurn, answers }) {
    const isStale = this.#staleAnswers > 0;
    if (answers && isStale) this.#staleAnswers -= 1;
    if (cuts) this.#parts.player.cut();
    if (sound && !isStale && this.state === "open") this.#parts.player.play(sound);
    if (endsTurn) this.#parts.player.endTurn();
    if (userText) this.#dispatch("said", { who: "user", text: userText, endsTurn: true });
    if (text || endsTurn) this.#dispatch("said", { who: "ai", text: isStale ? "" : (text ?? ""), endsTurn: endsTurn ?? false });
  }

  /** @param {{position: number, waitS: number}} place */
  #wait(place) {
    clearTimeout(this.#timer);
    if (this.state === "connecting") this.#become("queued");
    this.#dispatch("queue", place);
  }

  #open() {
    this.#limitOpening();
    this.#become("opening");
    this.send(/** @type {import("./realtime-dialects.js").Dialect} */ (this.#dialect).opening());
  }

  /** @param {Options} options */
  #goLive({ sound }) {
    clearTimeout(this.#timer);
    this.#become("open");
    const { chunkMs } = /** @type {import("./realtime-dialects.js").Dialect} */ (this.#dialect);
    if (sound === "microphone") {
      this.#parts.capture.addEventListener("chunk", this.#onChunk);
      this.#parts.capture.start(chunkMs);
    } else {
      const silence = new Float32Array((CAPTURE_RATE_HZ * chunkMs) / 1000);
      this.#silence = setInterval(() => void this.#append(silence), chunkMs);
    }
  }

  #onChunk = (/** @type {any} */ { detail }) => void this.#append(this.isMuted ? new Float32Array(detail.length) : detail);

  /** @param {Float32Array} samples */
  async #append(samples) {
    if (this.state !== "open" || this.#socket.bufferedAmount > MAX_BUFFERED_BYTES) return;
    const picture = (await this.#parts.grab?.().catch(() => null)) ?? null; // sound goes on without it
    if (this.state !== "open" || !this.#dialect) return;
    const isForced = this.#isForced;
    this.#isForced = false;
    if (this.send(this.#dialect.append(samples, picture ? [picture] : [], isForced)) && this.#dialect.asksByChunk) this.#ask();
  }

  #ask() {
    this.#askedMs.push(this.#parts.now());
    if (this.#askedMs.length > MAX_OPEN_QUESTIONS) this.#askedMs.shift();
  }

  /** How long the oldest open question took; null where none was open. */
  #answered() {
    const askedMs = this.#askedMs.shift();
    if (askedMs === undefined) return null;
    const tookMs = this.#parts.now() - askedMs;
    this.#timesMs.push(tookMs);
    if (this.#timesMs.length > MAX_TIMES) this.#timesMs.shift();
    return tookMs;
  }

  /** @param {"in"|"out"} direction @param {any} message @param {number} numBytes @param {number|null} latencyMs */
  #note(direction, message, numBytes, latencyMs) {
    this.bytes[direction] += numBytes;
    this.counts[direction] += 1;
    this.#dispatch("event", { direction, message, numBytes, latencyMs, atMs: this.durationMs });
  }

  /** @param {number} code @param {string} reason */
  #closed(code, reason) {
    this.ending = [this.ending, `close ${code}`, reason].filter(Boolean).join(", ");
    const isOwn = this.state === "closing" || code === 1000;
    if (isOwn) this.#finish();
    else this.#fail(new SessionError("lost", this.ending));
  }

  /** @param {SessionError} error */
  #fail(error) {
    if (this.isOver) return;
    this.error = error;
    this.#finish();
  }

  #finish() {
    if (this.isOver) return;
    this.#release();
    this.#become("closed");
  }

  #stopSound() {
    clearInterval(this.#silence);
    this.#parts.capture.removeEventListener("chunk", this.#onChunk);
    this.#parts.capture.stop();
  }

  #release() {
    clearTimeout(this.#timer);
    this.#stopSound();
    this.#socket?.close();
    this.#parts.capture.close();
    this.#parts.player.close();
  }

  /** @param {CallState} state */
  #become(state) {
    this.state = state;
    this.#dispatch("state", state);
  }

  /** @param {string} type @param {any} detail */
  #dispatch(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
