/** Full duplex by sound: both sides may speak at any time. Speaks /ws/duplex. */

import { EnergyVad } from "./audio/vad.js";
import { decodeF32, encodeF32 } from "./audio/pcm.js";
import { Captions } from "./captions.js";
import { ClientEvent, DEFAULT_CHUNK_MS, MAX_BUFFERED_BYTES, Route, ServerEvent, newSessionId } from "./protocol.js";
import { LiveSession } from "./session.js";

/** The user must speak this long over the model before client barge-in acts, ms. */
const BARGE_IN_MS = 180;
/** This much unanswered sound means that the server does not keep up, ms. */
const STALL_MS = 6000;

/**
 * @typedef {object} DuplexOptions
 * @property {string} [systemPrompt]
 * @property {number} [chunkMs] asked of the engine; `prepared.chunk_ms` decides
 * @property {number} [lengthPenalty] above 1 says more
 * @property {string} [refAudio] the voice: base64 of float32 at 16 kHz
 * @property {boolean} [clientBargeIn] interrupt when the microphone hears speech over the model
 */

/**
 * Adds to LiveSession: `phase` {phase: "listening"|"speaking"}, `caption` {turn, text, isFinal, isInterrupted},
 * `user` {text} and `user_turn` {durationMs}, `user_speaking` {isSpeaking}, `marker` {kind}.
 */
export class DuplexSession extends LiveSession {
  id = newSessionId("adx");
  chunkMs = DEFAULT_CHUNK_MS;
  /** @type {"listening"|"speaking"} */ phase = "listening";
  /** @type {Captions|null} */ #captions = null;
  /** The turn that is heard and the one that is still arriving may differ: captions wait in line. */
  /** @type {{turn: number, captions: Captions, isClosed: boolean}[]} */ #turns = [];
  #vad = new EnergyVad({ onsetMs: BARGE_IN_MS });
  #speechMs = 0;
  #position = 0;
  #discardUntil = 0;
  #forceNext = false;
  #isForced = false;
  #isStalled = false;

  get url() {
    return Route.duplex(this.id);
  }

  prepareMessage() {
    const { systemPrompt, chunkMs, lengthPenalty, refAudio } = /** @type {DuplexOptions} */ (this.options);
    return {
      ...(systemPrompt ? { system_prompt: systemPrompt } : {}),
      ...(refAudio ? { ref_audio_base64: refAudio } : {}),
      config: { ...(chunkMs ? { chunk_ms: chunkMs } : {}), ...(lengthPenalty ? { length_penalty: lengthPenalty } : {}) },
    };
  }

  /** @param {any} message */
  onPrepared(message) {
    this.chunkMs = message.chunk_ms ?? DEFAULT_CHUNK_MS;
    this.listen(this.parts.capture, "chunk", ({ detail }) => this.takeSound(detail));
    this.listen(this.parts.capture, "level", ({ detail }) => this.#hear(detail));
    this.listen(this.parts.player, "stats", ({ detail }) => this.#follow(detail));
    this.listen(this.parts.player, "started", () => this.#startSpeaking());
    this.listen(this.parts.player, "drained", () => this.#setPhase("listening"));
    this.parts.capture.start(this.chunkMs);
  }

  /** @param {any} message */
  onMessage(message) {
    if (message.type === ServerEvent.RESULT) this.#result(message);
    else if (message.type === ServerEvent.TRANSCRIPT) this.#transcript(message);
    else if (message.type === ServerEvent.PAUSED) this.#onPaused(message);
    else if (message.type === ServerEvent.RESUMED) this.#onResumed();
    else return false;
    return true;
  }

  /** What was not heard by now never will be: close the captions. */
  onRelease() {
    for (const { turn, captions, isClosed } of this.#turns) {
      const isInterrupted = !(isClosed && captions.isComplete);
      this.emit("caption", { turn, text: captions.cut(this.#position), isFinal: true, isInterrupted });
    }
    this.#turns = [];
  }

  /** Silence the model now, and let it listen. */
  interrupt() {
    if (this.state !== "live") return;
    this.#forceNext = true;
    this.#discardUntil = this.metrics.sent;
    this.#cut("interrupt");
  }

  /** Keep the model listening while *isForced*. @param {boolean} isForced */
  forceListen(isForced) {
    if (isForced && !this.#isForced) this.interrupt();
    this.#isForced = isForced;
  }

  pause() {
    if (this.state !== "live") return;
    this.parts.capture.stop();
    this.parts.player.hold(true);
    this.send({ type: ClientEvent.PAUSE });
    this.transition("paused");
    this.emit("marker", { kind: "pause" });
  }

  resume() {
    if (this.state === "paused") this.send({ type: ClientEvent.RESUME });
  }

  /** A chunk of the microphone. @param {Float32Array} samples */
  takeSound(samples) {
    this.sendSound(samples);
  }

  /** @param {Float32Array} samples @param {object} [fields] what goes with the sound */
  sendSound(samples, fields = {}) {
    if (this.state !== "live") return;
    if (this.bufferedAmount > MAX_BUFFERED_BYTES) {
      this.metrics.skipped += 1;
      return this.warn("slow_uplink");
    }
    const isForced = this.#isForced || this.#forceNext;
    this.#forceNext = false;
    const message = { type: ClientEvent.AUDIO_CHUNK, audio_base64: encodeF32(samples), ...fields };
    if (this.send(isForced ? { ...message, force_listen: true } : message)) this.metrics.chunkSent();
    this.#watch();
  }

  #watch() {
    const isStalled = this.metrics.outstanding * this.chunkMs > STALL_MS;
    if (isStalled && !this.#isStalled) this.warn("stalled");
    this.#isStalled = isStalled;
  }

  /** @param {import("./protocol.js").ResultMessage} result */
  #result(result) {
    this.metrics.resultReceived(result);
    this.emit("result", result);
    if (result.interrupted) return this.#cut("barge_in");
    // Results are counted, not named: those up to the interrupt still answer what was said before it.
    if (this.metrics.results <= this.#discardUntil) return;
    if (result.is_listen) return this.#endTurn();
    this.#speak(result);
    if (result.end_of_turn) this.#endTurn();
  }

  /** @param {import("./protocol.js").ResultMessage} result */
  #speak(result) {
    if (!this.#captions) this.#beginTurn();
    const start = this.parts.player.pushed;
    if (result.audio_data) {
      try {
        this.parts.player.play(decodeF32(result.audio_data));
      } catch (cause) {
        this.warn("bad_message", String(cause));
      }
    }
    this.#captions?.add(result.text ?? "", start, this.parts.player.pushed - start);
    this.#show();
  }

  #beginTurn() {
    this.metrics.turns += 1;
    this.#captions = new Captions();
    this.#turns.push({ turn: this.metrics.turns, captions: this.#captions, isClosed: false });
  }

  #endTurn() {
    if (!this.#captions) return;
    this.parts.player.endTurn();
    this.#captions = null;
    const last = this.#turns.at(-1);
    if (last) last.isClosed = true;
    this.#show();
  }

  /** @param {"interrupt"|"barge_in"} kind */
  #cut(kind) {
    if (this.#captions || this.#turns.length || this.parts.player.isPlaying) {
      this.metrics.interrupts += 1;
      this.emit("marker", { kind });
    }
    this.parts.player.cut();
    this.onRelease();
    this.#captions = null;
    this.#setPhase("listening");
  }

  /** @param {any} stats of the player */
  #follow(stats) {
    this.#position = stats.position;
    this.emit("speech_level", stats.state === "idle" ? 0 : stats.peak);
    this.#show();
  }

  #show() {
    for (const { turn, captions, isClosed } of this.#turns) {
      const text = captions.advance(this.#position);
      const isFinal = isClosed && captions.isComplete;
      if (text) this.emit("caption", { turn, text, isFinal, isInterrupted: false });
    }
    this.#turns = this.#turns.filter(({ captions, isClosed }) => !(isClosed && captions.isComplete));
  }

  #startSpeaking() {
    this.metrics.replyHeard();
    this.#setPhase("speaking");
  }

  /** @param {"listening"|"speaking"} phase */
  #setPhase(phase) {
    if (this.phase === phase) return;
    this.phase = phase;
    this.emit("phase", { phase });
  }

  /** @param {{rms: number, peak: number, ms: number}} level */
  #hear(level) {
    this.emit("level", level);
    if (this.state !== "live") return;
    if (this.#vad.isSpeaking) this.#speechMs += level.ms;
    const change = this.#vad.process(level.rms, level.ms);
    if (change === null) return;
    this.emit("user_speaking", { isSpeaking: change === "start" });
    if (change === "start") this.#userStarts();
    else this.#userStops();
  }

  #userStarts() {
    this.metrics.userStarted();
    this.#speechMs = this.#vad.onsetMs;
    if (this.options.clientBargeIn && this.parts.player.isPlaying) this.interrupt();
  }

  #userStops() {
    this.metrics.userStopped(this.#vad.hangoverMs);
    this.emit("user_turn", { durationMs: Math.max(0, this.#speechMs - this.#vad.hangoverMs) });
  }

  /** @param {any} message */
  #transcript(message) {
    if (message.role === "user" && message.text) this.emit("user", { text: String(message.text) });
  }

  /** @param {any} message */
  #onPaused(message) {
    this.emit("pause_limit", { timeoutS: message.timeout ?? 60 });
  }

  /** `resumed` also comes after the server moved the session by itself; only a paused one changes state. */
  #onResumed() {
    if (this.state !== "paused") return;
    this.transition("live");
    this.parts.player.hold(false);
    this.parts.capture.start(this.chunkMs);
  }
}
