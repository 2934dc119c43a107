/**
 * The life of one live session, the same for full and half duplex: permission, connecting, queue, prepare,
 * live, end. One object is one session; a new start makes a new object.
 */

import { SessionError, errorFromServer } from "./errors.js";
import { SessionMetrics } from "./metrics.js";
import { ClientEvent, ServerEvent } from "./protocol.js";

/** @typedef {"idle"|"permission"|"connecting"|"queued"|"preparing"|"live"|"paused"|"ending"|"ended"|"failed"} State */

/** @type {Readonly<Record<State, readonly State[]>>} */
export const TRANSITIONS = Object.freeze({
  idle: ["permission"],
  permission: ["connecting", "ended", "failed"],
  connecting: ["queued", "preparing", "ended", "failed"],
  queued: ["preparing", "ended", "failed"],
  preparing: ["live", "ended", "failed"],
  live: ["paused", "ending", "ended", "failed"],
  paused: ["live", "ending", "ended", "failed"],
  ending: ["ended", "failed"],
  ended: [],
  failed: [],
});

const BEFORE_LIVE = ["permission", "connecting", "queued", "preparing"];
/** Old servers send no queue_done: then prepare goes out by itself, ms after open. */
const PREPARE_FALLBACK_MS = 100;
const PREPARE_TIMEOUT_MS = 60000;
/** Longest wait for `stopped` before the socket is closed, ms. */
const STOP_TIMEOUT_MS = 500;

/** @typedef {"stopped"|"cancelled"|"pause_timeout"|"session_timeout"} EndReason */

/**
 * @typedef {object} SocketLike
 * @property {() => Promise<void>} open
 * @property {(message: object) => boolean} send
 * @property {() => void} close
 * @property {number} bufferedAmount
 */

/**
 * @typedef {object} LiveParts what a session is made of; tests pass scripted ones
 * @property {(url: string, handlers: import("./ws.js").SocketHandlers) => SocketLike} makeSocket
 * @property {any} capture Capture
 * @property {any} player Player
 * @property {any} [camera] Camera, where the session sends pictures
 * @property {() => number} now ms
 * @property {() => Promise<boolean>} isServerUp
 */

/**
 * Events, all CustomEvent: `state` {state, before}, `queue` (message), `warning` {code, detail}, `level`, and what
 * the subclass adds.
 */
export class LiveSession extends EventTarget {
  /** @type {State} */ state = "idle";
  /** @type {SessionError|null} */ error = null;
  /** @type {EndReason|null} */ endReason = null;
  /** @type {string|null} */ recordingId = null;
  /** @type {any} */ options = {};
  hasWaited = false;
  /** @type {SocketLike|null} */ #socket = null;
  #isPrepared = false;
  #strict;
  /** @type {Record<string, any>} */ #timers = {};
  /** @type {(() => void)[]} */ #cleanups = [];

  /**
   * @param {LiveParts} parts
   * @param {{strict?: boolean}} [options] strict: an illegal transition throws instead of being reported
   */
  constructor(parts, { strict = false } = {}) {
    super();
    this.parts = parts;
    this.metrics = new SessionMetrics(parts.now);
    this.#strict = strict;
  }

  /** The socket's path. @returns {string} */
  get url() {
    throw new Error("a subclass names the route");
  }

  /** @returns {object} */
  prepareMessage() {
    throw new Error("a subclass knows its prepare message");
  }

  /** `prepared` came and the session is live. @param {any} _message */
  onPrepared(_message) {}

  /** A message in live state. Returns false for a type it does not know. @param {any} _message @returns {boolean} */
  onMessage(_message) {
    return false;
  }

  /** The session is about to be over: last chance to say what was left open. */
  onRelease() {}

  get isLive() {
    return this.state === "live" || this.state === "paused";
  }

  get isOver() {
    return this.state === "ended" || this.state === "failed";
  }

  /**
   * Ask for the microphone, connect, wait, prepare. Settles when connected or failed; errors come as state.
   * @param {any} options settings of this session
   */
  async start(options) {
    this.options = options;
    this.transition("permission");
    try {
      await this.openMedia();
    } catch (cause) {
      return this.fail(SessionError.from(cause));
    }
    if (this.state !== "permission") return this.#release();
    this.transition("connecting");
    await this.#connect();
  }

  /** Open what the session hears and speaks with. Raises: SessionError. */
  async openMedia() {
    await this.parts.player.open(this.options);
    await this.parts.capture.open(this.options);
  }

  /** Leave before the session is live. */
  cancel() {
    if (BEFORE_LIVE.includes(this.state)) this.finish("cancelled");
  }

  /** End a live session: say stop, give the server half a second, close. */
  stop() {
    if (!this.isLive) return this.cancel();
    this.transition("ending");
    this.parts.capture.stop();
    this.parts.player.cut();
    this.send({ type: ClientEvent.STOP });
    this.#timers.stop = setTimeout(() => this.finish("stopped"), STOP_TIMEOUT_MS);
  }

  /** @param {object} message */
  send(message) {
    return this.#socket?.send(message) ?? false;
  }

  get bufferedAmount() {
    return this.#socket?.bufferedAmount ?? 0;
  }

  /** @param {State} next */
  transition(next) {
    const before = this.state;
    if (!TRANSITIONS[before].includes(next)) {
      if (this.#strict) throw new Error(`illegal transition ${before} -> ${next}`);
      this.warn("unknown", `illegal transition ${before} -> ${next}`);
      return;
    }
    this.state = next;
    this.emit("state", { state: next, before });
  }

  /** @param {SessionError} error */
  fail(error) {
    if (this.isOver) return;
    this.error = error;
    this.#release();
    this.transition("failed");
  }

  /** @param {EndReason} reason */
  finish(reason) {
    if (this.isOver) return;
    this.endReason = reason;
    this.#release();
    this.transition("ended");
  }

  /** @param {string} type @param {any} [detail] */
  emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /** @param {string} code @param {string} [detail] */
  warn(code, detail = "") {
    this.emit("warning", { code, detail });
  }

  /** Listen for as long as the session lives. @param {EventTarget} target @param {string} type @param {(event: any) => void} listener */
  listen(target, type, listener) {
    target.addEventListener(type, listener);
    this.#cleanups.push(() => target.removeEventListener(type, listener));
  }

  async #connect() {
    const socket = this.parts.makeSocket(this.url, {
      onMessage: (message) => this.#receive(message),
      onClose: ({ code, reason }) => this.#closed(code, reason),
      onBadMessage: (error) => this.warn(error.code, error.detail),
    });
    this.#socket = socket;
    try {
      await socket.open();
    } catch (cause) {
      const error = SessionError.from(cause);
      const isRefused = error.code === "unreachable" && (await this.parts.isServerUp());
      return this.fail(isRefused ? new SessionError("refused", error.detail) : error);
    }
    if (this.state !== "connecting") return;
    this.#timers.prepare = setTimeout(() => this.#prepare(), PREPARE_FALLBACK_MS);
  }

  #prepare() {
    if (this.#isPrepared || this.isOver) return;
    this.#isPrepared = true;
    clearTimeout(this.#timers.prepare);
    this.transition("preparing");
    this.send({ type: ClientEvent.PREPARE, ...this.prepareMessage() });
    this.#timers.prepared = setTimeout(
      () => this.fail(new SessionError("timeout", "no `prepared` within a minute")),
      PREPARE_TIMEOUT_MS,
    );
  }

  /** @param {any} message */
  #receive(message) {
    if (this.isOver) return;
    switch (message.type) {
      case ServerEvent.QUEUED:
      case ServerEvent.QUEUE_UPDATE:
        return this.#queue(message);
      case ServerEvent.QUEUE_DONE:
        return this.#prepare();
      case ServerEvent.PREPARED:
        return this.#goLive(message);
      case ServerEvent.TIMEOUT:
        return this.finish(this.state === "paused" ? "pause_timeout" : "session_timeout");
      case ServerEvent.STOPPED:
        return this.finish("stopped");
      case ServerEvent.ERROR:
        return this.#refuse(errorFromServer(String(message.error ?? message.message ?? "")));
    }
    if (!(this.isLive && this.onMessage(message))) this.metrics.unknown += 1;
  }

  /** @param {any} message */
  #queue(message) {
    if (this.state === "connecting") {
      this.hasWaited = true;
      clearTimeout(this.#timers.prepare);
      this.transition("queued");
    }
    if (this.state === "queued") this.emit("queue", message);
  }

  /** @param {any} message */
  #goLive(message) {
    if (this.state !== "preparing") return;
    clearTimeout(this.#timers.prepared);
    this.recordingId = message.recording_session_id ?? null;
    this.metrics.begin();
    this.listen(this.parts.capture, "lost", () => this.warn("mic_lost"));
    this.transition("live");
    this.onPrepared(message);
  }

  /** Before `prepared` an error ends the start; afterwards the session goes on. @param {SessionError} error */
  #refuse(error) {
    if (this.isLive) {
      if (error.code === "worker_lost") this.fail(error);
      else if (!/paused/i.test(error.detail)) this.warn(error.code, error.detail);
    } else this.fail(error);
  }

  /** @param {number} code @param {string} reason */
  #closed(code, reason) {
    if (this.state === "ending") return this.finish("stopped");
    this.fail(new SessionError("lost", `the socket closed with code ${code}${reason ? ` (${reason})` : ""}`));
  }

  #release() {
    this.onRelease();
    Object.values(this.#timers).forEach(clearTimeout);
    this.#cleanups.splice(0).forEach((cleanup) => cleanup());
    this.#socket?.close();
    this.parts.capture.close();
    this.parts.player.close();
  }
}
