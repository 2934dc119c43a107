/**
 * Streaming polyphase resampler: a Kaiser-windowed sinc, one set of taps per output phase.
 * Runs in worklets and in Node alike.
 */

/** Stop-band attenuation of the window, dB; aliases stay below it. */
const ATTENUATION_DB = 84;
/** Half width of the sinc in zero crossings at the lower rate: a transition band of about 8 % of that rate. */
const ZERO_CROSSINGS = 32;

export class Resampler {
  #up; #down; #taps; #half;
  /** @type {Float32Array} phase p's taps at [p * taps, (p + 1) * taps) */ #table;
  /** @type {Float32Array} last `taps` inputs, kept twice so that they can be read in one piece */ #ring;
  #at = 0;
  /** Inputs still missing for the next output, and that output's phase. */
  #due; #phase = 0;

  /**
   * @param {number} fromHz integer
   * @param {number} toHz integer
   */
  constructor(fromHz, toHz) {
    const divisor = gcd(fromHz, toHz);
    this.#up = toHz / divisor;
    this.#down = fromHz / divisor;
    this.#half = Math.ceil(ZERO_CROSSINGS * Math.max(1, fromHz / toHz));
    this.#taps = 2 * this.#half;
    this.#table = this.isIdentity ? new Float32Array(0) : tapTable(this.#up, this.#down, this.#taps);
    this.#ring = new Float32Array(2 * this.#taps);
    this.#due = this.#half + 1;
  }

  get isIdentity() {
    return this.#up === this.#down;
  }

  /** Most outputs that *numInputs* inputs can give. @param {number} numInputs */
  maxOutputs(numInputs) {
    return Math.ceil((numInputs * this.#up) / this.#down) + 1;
  }

  /**
   * Write the outputs that *input* completes to *output*; returns how many. Output lags input by half the taps.
   * @param {Float32Array} input
   * @param {Float32Array} output at least maxOutputs(input.length)
   */
  process(input, output) {
    if (this.isIdentity) {
      output.set(input);
      return input.length;
    }
    let written = 0;
    for (let index = 0; index < input.length; index += 1) {
      this.#push(input[index]);
      while (this.#due === 0) {
        output[written] = this.#convolve();
        written += 1;
        this.#advance();
      }
    }
    return written;
  }

  /** All of *input* at once, with the tail that the filter still holds. @param {Float32Array} input */
  convert(input) {
    const output = new Float32Array(this.maxOutputs(input.length + this.#half) + 1);
    let written = this.process(input, output);
    if (!this.isIdentity) {
      written += this.process(new Float32Array(this.#half), output.subarray(written));
    }
    return output.slice(0, written);
  }

  /** @param {number} sample */
  #push(sample) {
    this.#ring[this.#at] = sample;
    this.#ring[this.#at + this.#taps] = sample;
    this.#at = (this.#at + 1) % this.#taps;
    this.#due -= 1;
  }

  #convolve() {
    const table = this.#table, ring = this.#ring, taps = this.#taps;
    let sum = 0;
    for (let tap = 0, t = this.#phase * taps, r = this.#at; tap < taps; tap += 1) sum += table[t++] * ring[r++];
    return sum;
  }

  #advance() {
    const next = this.#phase + this.#down;
    this.#due = Math.floor(next / this.#up);
    this.#phase = next % this.#up;
  }
}

/**
 * When an output at input time i + phase / up is due, the ring holds x[i - half + 1 .. i + half]:
 * tap k weighs the input at distance (k - half + 1) - phase / up.
 * @param {number} up @param {number} down @param {number} taps
 */
function tapTable(up, down, taps) {
  const half = taps / 2;
  const transition = (ATTENUATION_DB - 7.95) / (14.36 * taps); // Kaiser's formula, cycles per input sample
  const cutoff = 0.5 * Math.min(1, up / down) - transition / 2;
  const beta = 0.1102 * (ATTENUATION_DB - 8.7);
  const table = new Float32Array(up * taps);
  for (let phase = 0; phase < up; phase += 1) {
    let sum = 0;
    for (let tap = 0; tap < taps; tap += 1) {
      const t = tap - half + 1 - phase / up;
      const value = 2 * cutoff * sinc(2 * cutoff * t) * kaiser(t / half, beta);
      table[phase * taps + tap] = value;
      sum += value;
    }
    for (let tap = 0; tap < taps; tap += 1) table[phase * taps + tap] /= sum;
  }
  return table;
}

/** @param {number} x */
const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

/** @param {number} x in [-1, 1] @param {number} beta */
const kaiser = (x, beta) => (Math.abs(x) > 1 ? 0 : bessel0(beta * Math.sqrt(1 - x * x)) / bessel0(beta));

/** Modified Bessel function of order 0, by its series. @param {number} x */
function bessel0(x) {
  let sum = 1, term = 1;
  for (let k = 1; term > sum * 1e-12; k += 1) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

/** @param {number} a @param {number} b @returns {number} */
const gcd = (a, b) => (b === 0 ? a : gcd(b, a % b));
