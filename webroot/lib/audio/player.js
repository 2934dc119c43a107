/** The model's voice: buffered playback in a worklet, adaptive start delay, instant cut, volume and speaker. */

import { SPEECH_RATE_HZ } from "../protocol.js";
import { Resampler } from "./resample.js";

const WORKLET_URL = new URL("./player.worklet.js", import.meta.url);
/** Within 10-20 ms: short enough to feel immediate, long enough not to click. */
const FADE_MS = 15;
const MAX_DELAY_MS = 1500;
const MIN_DELAY_MS = 40;

/** Where the start delay goes after a turn: up by what was missing, slowly down again. */
export class DelayPolicy {
  /** @param {number} baseMs */
  constructor(baseMs) {
    this.baseMs = baseMs;
    this.delayMs = baseMs;
  }

  /** @param {number} gapMs silence heard within the turn */
  afterTurn(gapMs) {
    const floor = Math.min(this.baseMs, MIN_DELAY_MS);
    const next = gapMs > 0 ? this.delayMs + gapMs : this.delayMs * 0.9;
    this.delayMs = Math.round(Math.max(floor, Math.min(MAX_DELAY_MS, next)));
  }
}

/**
 * Events: `stats` (detail RingStats in 24 kHz samples plus `peak`), `started` (first sound of a turn), `drained`.
 */
export class Player extends EventTarget {
  /** @type {AudioContext|null} */ #context = null;
  /** @type {AudioWorkletNode|null} */ #node = null;
  /** @type {GainNode|null} */ #gain = null;
  /** @type {AnalyserNode|null} */ #analyser = null;
  /** @type {Resampler|null} */ #resampler = null;
  /** @type {any} */ #stats = null;
  #policy = new DelayPolicy(200);
  #gapMsAtBegin = 0;
  #volume = 1;
  #maxRms = 0;
  /** Samples handed over so far, at the context's rate: where the next sound will stand. */
  #pushed = 0;
  #isTurnOpen = false;

  /**
   * Make the audio graph. Must run in a click, or the browser keeps the context suspended.
   * @param {{delayMs?: number, volume?: number, speakerId?: string}} options
   */
  async open({ delayMs = 200, volume = 1, speakerId = "" }) {
    this.close();
    this.#policy = new DelayPolicy(delayMs);
    const context = makeContext();
    this.#context = context;
    await context.audioWorklet.addModule(WORKLET_URL);
    const node = new AudioWorkletNode(context, "omni-player", {
      numberOfInputs: 0,
      outputChannelCount: [1],
      processorOptions: { fadeMs: FADE_MS },
    });
    node.port.onmessage = ({ data }) => this.#report(data);
    this.#gain = context.createGain();
    this.#analyser = context.createAnalyser();
    node.connect(this.#analyser).connect(this.#gain).connect(context.destination);
    this.#node = node;
    this.#resampler = context.sampleRate === SPEECH_RATE_HZ ? null : new Resampler(SPEECH_RATE_HZ, context.sampleRate);
    this.setVolume(volume);
    if (speakerId) await this.setSpeaker(speakerId);
    await context.resume();
  }

  /** Position at which the next pushed sample will be heard; compare with `stats.position`. */
  get pushed() {
    return this.#pushed;
  }

  get isPlaying() {
    return this.#stats !== null && this.#stats.state !== "idle";
  }

  /** @param {Float32Array} samples 24 kHz */
  play(samples) {
    if (!this.#node) return;
    if (!this.#isTurnOpen) this.#begin();
    const sound = this.#resampler ? this.#convert(this.#resampler, samples) : samples;
    this.#pushed += sound.length;
    this.#node.port.postMessage({ type: "push", samples: sound });
  }

  /** What was pushed plays out; the next sound opens a new turn. */
  endTurn() {
    if (!this.#isTurnOpen) return;
    this.#node?.port.postMessage({ type: "end" });
    this.#closeTurn();
  }

  /** Silence within the fade; everything buffered is forgotten. */
  cut() {
    this.#node?.port.postMessage({ type: "cut" });
    if (this.#isTurnOpen) this.#closeTurn();
  }

  /** Silence without forgetting. @param {boolean} isHeld */
  hold(isHeld) {
    this.#node?.port.postMessage({ type: "hold", isHeld });
  }

  /** @param {number} volume 0..1 */
  setVolume(volume) {
    this.#volume = volume;
    this.#gain?.gain.setTargetAtTime(volume, this.#context?.currentTime ?? 0, 0.015);
  }

  /** @param {string} speakerId "" is the system default */
  async setSpeaker(speakerId) {
    const context = /** @type {any} */ (this.#context);
    if (!context?.setSinkId) return;
    try {
      await context.setSinkId(speakerId);
    } catch {
      await context.setSinkId(""); // the remembered speaker is gone: the default one is better than silence
    }
  }

  /** RMS of what sounds at this moment, before the volume. */
  rms() {
    if (!this.#analyser) return 0;
    const samples = new Float32Array(this.#analyser.fftSize);
    this.#analyser.getFloatTimeDomainData(samples);
    return Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length);
  }

  /** Numbers for the metrics panel and for tests. */
  metrics() {
    const perMs = (this.#context?.sampleRate ?? SPEECH_RATE_HZ) / 1000;
    const stats = this.#stats ?? { state: "idle", aheadSamples: 0, gaps: 0, position: 0, droppedSamples: 0 };
    return {
      state: stats.state,
      aheadMs: stats.aheadSamples / perMs,
      playedMs: stats.position / perMs,
      gaps: stats.gaps,
      gapMs: this.#gapMs(),
      droppedMs: stats.droppedSamples / perMs,
      delayMs: this.#policy.delayMs,
      rms: this.rms(),
      maxRms: this.#maxRms,
      volume: this.#volume,
    };
  }

  close() {
    this.#node?.port.close();
    void this.#context?.close();
    this.#context = this.#node = this.#gain = this.#analyser = this.#stats = null;
    this.#pushed = 0;
    this.#isTurnOpen = false;
  }

  #begin() {
    this.#isTurnOpen = true;
    this.#gapMsAtBegin = this.#gapMs();
    this.#node?.port.postMessage({ type: "begin", delayMs: this.#policy.delayMs });
  }

  #closeTurn() {
    this.#isTurnOpen = false;
    this.#policy.afterTurn(this.#gapMs() - this.#gapMsAtBegin);
  }

  #gapMs() {
    return ((this.#stats?.gapSamples ?? 0) / (this.#context?.sampleRate ?? SPEECH_RATE_HZ)) * 1000;
  }

  /** @param {Resampler} resampler @param {Float32Array} samples */
  #convert(resampler, samples) {
    const out = new Float32Array(resampler.maxOutputs(samples.length));
    return out.slice(0, resampler.process(samples, out));
  }

  /** @param {any} stats */
  #report(stats) {
    const before = this.#stats?.state ?? "idle";
    this.#stats = stats;
    if (stats.state === "playing") this.#maxRms = Math.max(this.#maxRms, this.rms());
    this.dispatchEvent(new CustomEvent("stats", { detail: stats }));
    if (stats.state === "playing" && before !== "playing") this.dispatchEvent(new Event("started"));
    if (stats.state === "idle" && before !== "idle") this.dispatchEvent(new Event("drained"));
  }
}

/** At 24 kHz where the browser can, so that its own converter does the work; else at the device's rate. */
function makeContext() {
  try {
    return new AudioContext({ sampleRate: SPEECH_RATE_HZ, latencyHint: "interactive" });
  } catch {
    return new AudioContext({ latencyHint: "interactive" });
  }
}
