/** base64 of little-endian 16-bit PCM, the form in which OpenAI's clients carry sound. */

import { encodeBytes } from "./pcm.js";

/** @param {Float32Array} samples clipped to full scale @returns {string} */
export function encodePcm16(samples) {
  const view = new DataView(new ArrayBuffer(samples.length * 2));
  samples.forEach((sample, index) => view.setInt16(index * 2, Math.round(Math.max(-1, Math.min(1, sample)) * 32767), true));
  return encodeBytes(new Uint8Array(view.buffer));
}

/** Raises: RangeError when the bytes are no whole number of samples. @param {string} text @returns {Float32Array<ArrayBuffer>} */
export function decodePcm16(text) {
  const binary = atob(text);
  if (binary.length % 2) throw new RangeError(`${binary.length} bytes are no 16-bit samples`);
  const samples = new Float32Array(binary.length / 2);
  for (let index = 0; index < samples.length; index += 1) {
    const word = binary.charCodeAt(2 * index) | (binary.charCodeAt(2 * index + 1) << 8);
    samples[index] = (word < 0x8000 ? word : word - 0x10000) / 32768;
  }
  return samples;
}
