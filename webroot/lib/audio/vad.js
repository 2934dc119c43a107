/** Is the user speaking? By energy over an adaptive noise floor: for barge-in and for timing, not for the model. */

/** Never below this RMS, about -42 dBFS: breath and room noise. */
const MIN_RMS = 0.008;
/** Speech stands this far above the noise floor. */
const RATIO = 3.5;
/** The floor falls fast and rises slowly, slower still under speech: half-lives, ms. */
const FALL_MS = 150;
const RISE_MS = 4000;
const RISE_SPEAKING_MS = 20000;

export class EnergyVad {
  #floor = 0.003; #aboveMs = 0; #belowMs = 0;
  isSpeaking = false;

  /** @param {{onsetMs?: number, hangoverMs?: number}} [options] */
  constructor({ onsetMs = 120, hangoverMs = 500 } = {}) {
    this.onsetMs = onsetMs;
    this.hangoverMs = hangoverMs;
  }

  /**
   * @param {number} rms of the last *ms*
   * @param {number} ms
   * @returns {"start"|"end"|null} what just changed
   */
  process(rms, ms) {
    const isLoud = rms > Math.max(MIN_RMS, this.#floor * RATIO);
    this.#track(rms, ms);
    this.#aboveMs = isLoud ? this.#aboveMs + ms : Math.max(0, this.#aboveMs - 2 * ms);
    this.#belowMs = isLoud ? 0 : this.#belowMs + ms;
    if (!this.isSpeaking && this.#aboveMs >= this.onsetMs) {
      this.isSpeaking = true;
      return "start";
    }
    if (this.isSpeaking && this.#belowMs >= this.hangoverMs) {
      this.isSpeaking = false;
      return "end";
    }
    return null;
  }

  /** @param {number} rms @param {number} ms */
  #track(rms, ms) {
    const riseMs = this.isSpeaking ? RISE_SPEAKING_MS : RISE_MS;
    const halfLife = rms < this.#floor ? FALL_MS : riseMs;
    this.#floor += (rms - this.#floor) * (1 - 0.5 ** (ms / halfLife));
  }
}
