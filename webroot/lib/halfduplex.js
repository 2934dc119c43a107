/** Half duplex: the server hears when the user has finished, then answers. Speaks /ws/half_duplex. */

import { decodeF32, encodeF32 } from "./audio/pcm.js";
import { ClientEvent, MAX_BUFFERED_BYTES, Route, ServerEvent, newSessionId } from "./protocol.js";
import { LiveSession } from "./session.js";

const CHUNK_MS = 500;
/** The microphone stays shut this long after the answer was heard: the room still carries it, ms. */
const ECHO_TAIL_MS = 800;

/** @typedef {"listening"|"user"|"generating"|"speaking"} HalfPhase */

/**
 * @typedef {object} HalfDuplexOptions
 * @property {string} [systemPrompt]
 * @property {number} [vadThreshold]
 * @property {number} [vadSilenceMs]
 * @property {number} [maxTokens]
 * @property {number} [timeoutS]
 */

/**
 * Adds to LiveSession: `phase` {phase}, `caption` {turn, text, isFinal, isInterrupted}, `user` {text}, `user_turn` {durationMs},
 * `time_limit` {timeoutS}.
 */
export class HalfDuplexSession extends LiveSession {
  id = newSessionId("hdx");
  /** @type {HalfPhase} */ phase = "listening";
  #text = "";
  #isAnswerComplete = true;
  #isSilenced = false;
  /** @type {any} */ #tailTimer = 0;

  get url() {
    return Route.halfDuplex(this.id);
  }

  prepareMessage() {
    const options = /** @type {HalfDuplexOptions} */ (this.options);
    return {
      system_content: options.systemPrompt ? [{ type: "text", text: options.systemPrompt }] : [],
      config: {
        vad: { threshold: options.vadThreshold ?? 0.8, min_silence_duration_ms: options.vadSilenceMs ?? 800 },
        generation: { max_new_tokens: options.maxTokens ?? 256 },
        tts: { enabled: true },
        session: { timeout_s: options.timeoutS ?? 300 },
      },
    };
  }

  /** @param {any} message */
  onPrepared(message) {
    this.emit("time_limit", { timeoutS: message.timeout_s ?? 300 });
    this.listen(this.parts.capture, "chunk", ({ detail }) => this.#sendChunk(detail));
    this.listen(this.parts.capture, "level", ({ detail }) => this.emit("level", detail));
    this.listen(this.parts.player, "stats", ({ detail }) => this.emit("speech_level", detail.peak));
    this.listen(this.parts.player, "started", () => this.#startSpeaking());
    this.listen(this.parts.player, "drained", () => this.#openMicrophone());
    this.parts.capture.start(CHUNK_MS);
  }

  /** @param {any} message */
  onMessage(message) {
    if (message.type === ServerEvent.VAD_STATE) this.#onVad(Boolean(message.speaking));
    else if (message.type === ServerEvent.GENERATING) this.#onGenerating(message);
    else if (message.type === ServerEvent.CHUNK) this.#onChunk(message);
    else if (message.type === ServerEvent.TURN_DONE) this.#onTurnDone(message);
    else if (message.type === ServerEvent.INTERRUPTED) return true; // turn_done follows, and says the rest
    else if (message.type === ServerEvent.TRANSCRIPT) this.#onTranscript(message);
    else return false;
    return true;
  }

  /** An answer that was still coming will not be finished. */
  onRelease() {
    clearTimeout(this.#tailTimer);
    if (this.#isAnswerComplete) return;
    this.#isSilenced = true;
    this.#caption(true);
  }

  /** Stop the answer: here at once, and in the server, which ends its turn with what there is. */
  interrupt() {
    if (this.phase !== "generating" && this.phase !== "speaking") return;
    if (!this.#isAnswerComplete) this.send({ type: ClientEvent.INTERRUPT });
    if (!this.#isSilenced) this.metrics.interrupts += 1;
    this.#isSilenced = true;
    this.parts.player.cut();
    this.#caption(this.#isAnswerComplete);
    if (this.phase === "speaking") this.#openMicrophone();
  }

  /** @param {Float32Array} samples */
  #sendChunk(samples) {
    if (this.state !== "live" || this.phase === "generating" || this.phase === "speaking") return;
    if (this.bufferedAmount > MAX_BUFFERED_BYTES) {
      this.metrics.skipped += 1;
      return this.warn("slow_uplink");
    }
    if (this.send({ type: ClientEvent.AUDIO_CHUNK, audio_base64: encodeF32(samples) })) this.metrics.sent += 1;
  }

  /** @param {boolean} isSpeaking */
  #onVad(isSpeaking) {
    if (this.phase === "listening" || this.phase === "user") this.#setPhase(isSpeaking ? "user" : "listening");
  }

  /** @param {any} message */
  #onGenerating(message) {
    this.metrics.turns += 1;
    this.metrics.userStopped(0);
    this.#text = "";
    this.#isAnswerComplete = this.#isSilenced = false;
    this.emit("user_turn", { durationMs: message.speech_duration_ms ?? 0 });
    this.#setPhase("generating");
  }

  /** @param {any} message */
  #onChunk(message) {
    if (message.text_delta) {
      this.#text += message.text_delta;
      this.#caption(false);
    }
    if (!message.audio_data || this.#isSilenced) return;
    try {
      this.parts.player.play(decodeF32(message.audio_data));
    } catch (cause) {
      this.warn("bad_message", String(cause));
    }
  }

  /** Also follows a failed generation, so the microphone always opens again. @param {any} message */
  #onTurnDone(message) {
    this.#text = message.text || this.#text;
    this.#isAnswerComplete = true;
    this.#caption(true);
    this.parts.player.endTurn();
    if (!this.parts.player.isPlaying) this.#openMicrophone();
  }

  /** @param {any} message */
  #onTranscript(message) {
    if (message.role === "user" && message.text) this.emit("user", { text: String(message.text) });
  }

  #startSpeaking() {
    this.metrics.replyHeard();
    this.#setPhase("speaking");
  }

  #openMicrophone() {
    clearTimeout(this.#tailTimer);
    this.#tailTimer = setTimeout(() => {
      if (this.#isAnswerComplete && !this.parts.player.isPlaying) this.#setPhase("listening");
    }, ECHO_TAIL_MS);
  }

  /** @param {boolean} isFinal */
  #caption(isFinal) {
    if (!this.#text) return;
    this.emit("caption", { turn: this.metrics.turns, text: this.#text, isFinal, isInterrupted: this.#isSilenced });
  }

  /** @param {HalfPhase} phase */
  #setPhase(phase) {
    if (this.phase === phase) return;
    this.phase = phase;
    this.emit("phase", { phase });
  }
}
