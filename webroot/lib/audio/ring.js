/** The player's buffer: start delay, gaps counted to the sample, a fade on cut. Pure, so tests run it in Node. */

/** @typedef {"idle"|"filling"|"playing"|"cutting"} RingState */

/**
 * @typedef {object} RingStats
 * @property {RingState} state
 * @property {number} position samples played, cut or dropped since the start
 * @property {number} aheadSamples buffered
 * @property {number} gaps times a turn ran dry
 * @property {number} gapSamples silence played because of that
 * @property {number} droppedSamples refused because the buffer was full
 */

/** Per-sample decay of the last value when sound stops at once: silent after about 5 ms, without a click. */
const DECAY = 0.96;

export class PlayerRing {
  /** @type {Float32Array} */ #buffer;
  #fadeSamples; #read = 0; #size = 0; #last = 0; #fadeLeft = 0;
  #delayLeft = 0; #isTurnOpen = false; #isHeld = false; #isDry = false;
  #position = 0; #gaps = 0; #gapSamples = 0; #droppedSamples = 0;
  /** @type {RingState} */ #state = "idle";

  /**
   * @param {number} capacity samples; beyond it the newest sound is dropped and counted
   * @param {number} fadeSamples length of the fade on cut
   */
  constructor(capacity, fadeSamples) {
    this.#buffer = new Float32Array(capacity);
    this.#fadeSamples = fadeSamples;
  }

  /**
   * A turn begins: hold its first sound back for *delaySamples*, unless sound is still playing. What was cut before
   * fades no further: its end would take the new sound with it.
   * @param {number} delaySamples
   */
  beginTurn(delaySamples) {
    if (this.#state === "cutting") this.#forget();
    this.#isTurnOpen = true;
    if (this.#state !== "idle") return;
    this.#state = "filling";
    this.#delayLeft = delaySamples;
  }

  /** No more sound belongs to this turn: what is there plays out, and running dry is no gap. */
  endTurn() {
    this.#isTurnOpen = false;
    if (this.#state === "filling" && this.#size > 0) this.#state = "playing";
    else if (this.#size === 0 && this.#state !== "cutting") this.#state = "idle";
    this.#isDry = false;
  }

  /** @param {Float32Array} samples */
  push(samples) {
    const room = this.#buffer.length - this.#size;
    const count = Math.min(room, samples.length);
    const start = (this.#read + this.#size) % this.#buffer.length;
    const first = Math.min(count, this.#buffer.length - start);
    this.#buffer.set(samples.subarray(0, first), start);
    this.#buffer.set(samples.subarray(first, count), 0);
    this.#size += count;
    this.#droppedSamples += samples.length - count;
    this.#position += samples.length - count;
  }

  /** Stop within the fade and forget everything buffered. */
  cut() {
    this.#isTurnOpen = false;
    this.#isDry = false;
    const isSounding = this.#state === "playing" && this.#size > 0 && !this.#isHeld;
    if (!isSounding) return this.#forget();
    this.#state = "cutting";
    this.#fadeLeft = this.#fadeSamples;
    this.#limit(this.#fadeSamples);
  }

  /** Silence without forgetting, until released. @param {boolean} isHeld */
  hold(isHeld) {
    this.#isHeld = isHeld;
  }

  /** Fill *out* with what is to be heard now. @param {Float32Array} out */
  pull(out) {
    let at = 0;
    if (this.#state === "filling" && !this.#isHeld) at = this.#wait(out);
    if (this.#state === "cutting") at = this.#fade(out);
    else if (this.#state === "playing" && !this.#isHeld) at = this.#copy(out, at);
    for (; at < out.length; at += 1) {
      this.#last *= DECAY;
      out[at] = this.#last;
    }
  }

  /** @returns {RingStats} */
  stats() {
    return {
      state: this.#state,
      position: this.#position,
      aheadSamples: this.#size,
      gaps: this.#gaps,
      gapSamples: this.#gapSamples,
      droppedSamples: this.#droppedSamples,
    };
  }

  /** Let the start delay pass; returns where in *out* playing begins. @param {Float32Array} out */
  #wait(out) {
    if (this.#size === 0) return 0;
    const waited = Math.min(this.#delayLeft, out.length);
    this.#delayLeft -= waited;
    out.fill(0, 0, waited);
    if (this.#delayLeft === 0) this.#state = "playing";
    return waited;
  }

  /** @param {Float32Array} out @param {number} at */
  #copy(out, at) {
    if (this.#isDry && this.#size > 0) this.#isDry = false;
    while (at < out.length && this.#size > 0) out[at++] = this.#take();
    if (this.#size > 0 || at === out.length) return at;
    if (!this.#isTurnOpen) {
      this.#state = "idle";
      return at;
    }
    if (!this.#isDry) this.#gaps += 1;
    this.#isDry = true;
    this.#gapSamples += out.length - at;
    return at;
  }

  /** @param {Float32Array} out */
  #fade(out) {
    let at = 0;
    while (at < out.length && this.#size > 0 && this.#fadeLeft > 0) {
      out[at++] = this.#take() * (this.#fadeLeft / this.#fadeSamples);
      this.#fadeLeft -= 1;
    }
    this.#last = at > 0 ? out[at - 1] : 0;
    if (this.#size === 0 || this.#fadeLeft === 0) this.#forget();
    return at;
  }

  #take() {
    this.#last = this.#buffer[this.#read];
    this.#read = (this.#read + 1) % this.#buffer.length;
    this.#size -= 1;
    this.#position += 1;
    return this.#last;
  }

  /** Keep at most *count* buffered samples. @param {number} count */
  #limit(count) {
    const excess = Math.max(0, this.#size - count);
    this.#size -= excess;
    this.#position += excess;
  }

  #forget() {
    this.#limit(0);
    this.#state = "idle";
  }
}
