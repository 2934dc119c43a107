/** Audio thread of the microphone: device rate -> 16 kHz, chunks of a set length, levels every 20 ms. */

import { Resampler } from "./resample.js";

const TARGET_HZ = 16000;
const LEVEL_S = 0.02;

class CaptureProcessor extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(sampleRate, TARGET_HZ);
    this.scratch = new Float32Array(this.resampler.maxOutputs(1024));
    /** @type {Float32Array|null} */ this.chunk = null;
    this.filled = 0;
    this.sum = 0;
    this.peak = 0;
    this.counted = 0;
    this.port.onmessage = ({ data }) => this.obey(data);
  }

  /** @param {any} order */
  obey(order) {
    this.filled = 0;
    this.chunk = order.type === "start" ? new Float32Array(Math.round((order.chunkMs / 1000) * TARGET_HZ)) : null;
  }

  /** @param {Float32Array[][]} inputs */
  process(inputs) {
    const input = inputs[0]?.[0];
    if (!input) return true;
    this.measure(input);
    const count = this.resampler.process(input, this.scratch);
    if (this.chunk) this.collect(this.scratch, count);
    return true;
  }

  /** @param {Float32Array} samples @param {number} count */
  collect(samples, count) {
    for (let at = 0; at < count && this.chunk; ) {
      const take = Math.min(count - at, this.chunk.length - this.filled);
      this.chunk.set(samples.subarray(at, at + take), this.filled);
      this.filled += take;
      at += take;
      if (this.filled === this.chunk.length) this.emit();
    }
  }

  emit() {
    const full = /** @type {Float32Array} */ (this.chunk);
    this.chunk = new Float32Array(full.length);
    this.filled = 0;
    this.port.postMessage({ type: "chunk", samples: full }, [full.buffer]);
  }

  /** @param {Float32Array} input */
  measure(input) {
    for (const sample of input) {
      this.sum += sample * sample;
      this.peak = Math.max(this.peak, Math.abs(sample));
    }
    this.counted += input.length;
    if (this.counted < LEVEL_S * sampleRate) return;
    const ms = (this.counted / sampleRate) * 1000;
    this.port.postMessage({ type: "level", rms: Math.sqrt(this.sum / this.counted), peak: this.peak, ms });
    this.sum = this.peak = this.counted = 0;
  }
}

registerProcessor("omni-capture", CaptureProcessor);
