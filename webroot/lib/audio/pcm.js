/** base64, the form in which sound (raw little-endian float32) and pictures cross the wire. */

/** String.fromCharCode takes its bytes as arguments, and engines limit those. */
const SLICE_BYTES = 0x8000;

/** @param {Float32Array} samples @returns {string} */
export function encodeF32(samples) {
  return encodeBytes(new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength));
}

/** @param {Uint8Array} bytes @returns {string} base64 */
export function encodeBytes(bytes) {
  let binary = "";
  for (let at = 0; at < bytes.length; at += SLICE_BYTES) {
    binary += String.fromCharCode(.../** @type {any} */ (bytes.subarray(at, at + SLICE_BYTES)));
  }
  return btoa(binary);
}

/**
 * Raises: RangeError when the bytes are no whole number of samples.
 * @param {string} text
 * @returns {Float32Array<ArrayBuffer>}
 */
export function decodeF32(text) {
  const binary = atob(text);
  if (binary.length % 4) throw new RangeError(`${binary.length} bytes are no float32 samples`);
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at += 1) bytes[at] = binary.charCodeAt(at);
  return new Float32Array(bytes.buffer);
}

/** Root mean square. @param {Float32Array} samples */
export function rms(samples) {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  return samples.length ? Math.sqrt(sum / samples.length) : 0;
}
