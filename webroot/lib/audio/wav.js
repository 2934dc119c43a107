/** WAV files of 16-bit PCM, written and read. */

const HEADER_BYTES = 44;

/**
 * @param {Float32Array[]} channels equally long, in [-1, 1]; louder samples are clipped
 * @param {number} rateHz
 * @returns {ArrayBuffer}
 */
export function encodeWav(channels, rateHz) {
  const numFrames = channels[0].length;
  const frameBytes = 2 * channels.length;
  const view = new DataView(new ArrayBuffer(HEADER_BYTES + numFrames * frameBytes));
  writeText(view, 0, "RIFF");
  view.setUint32(4, view.byteLength - 8, true);
  writeText(view, 8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, channels.length, true);
  view.setUint32(24, rateHz, true);
  view.setUint32(28, rateHz * frameBytes, true);
  view.setUint16(32, frameBytes, true);
  view.setUint16(34, 16, true);
  writeText(view, 36, "data");
  view.setUint32(40, numFrames * frameBytes, true);
  let at = HEADER_BYTES;
  for (let frame = 0; frame < numFrames; frame += 1) {
    for (const channel of channels) {
      view.setInt16(at, toInt16(channel[frame]), true);
      at += 2;
    }
  }
  return view.buffer;
}

/**
 * Raises: RangeError when *buffer* is no 16-bit PCM WAV file.
 * @param {ArrayBuffer} buffer
 * @returns {{channels: Float32Array[], rateHz: number}}
 */
export function decodeWav(buffer) {
  const view = new DataView(buffer);
  if (buffer.byteLength < 12 || readText(view, 0) !== "RIFF" || readText(view, 8) !== "WAVE") {
    throw new RangeError("not a WAV file");
  }
  let numChannels = 0, rateHz = 0;
  for (let at = 12; at + 8 <= buffer.byteLength; ) {
    const kind = readText(view, at), size = view.getUint32(at + 4, true), body = at + 8;
    if (kind === "fmt ") {
      if (view.getUint16(body, true) !== 1 || view.getUint16(body + 14, true) !== 16) {
        throw new RangeError("only 16-bit PCM is read");
      }
      numChannels = view.getUint16(body + 2, true);
      rateHz = view.getUint32(body + 4, true);
    } else if (kind === "data" && numChannels) {
      const bytes = Math.min(size, buffer.byteLength - body);
      return { channels: readChannels(view, body, bytes, numChannels), rateHz };
    }
    at = body + size + (size % 2);
  }
  throw new RangeError("the WAV file has no sound");
}

/** @param {DataView} view @param {number} at @param {number} bytes @param {number} numChannels */
function readChannels(view, at, bytes, numChannels) {
  const numFrames = Math.floor(bytes / (2 * numChannels));
  return Array.from({ length: numChannels }, (_, channel) =>
    Float32Array.from({ length: numFrames }, (_unused, frame) =>
      view.getInt16(at + 2 * (frame * numChannels + channel), true) / 32768,
    ),
  );
}

/** @param {number} sample */
const toInt16 = (sample) => Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));

/** @param {DataView} view @param {number} at @param {string} text */
function writeText(view, at, text) {
  for (let i = 0; i < text.length; i += 1) view.setUint8(at + i, text.charCodeAt(i));
}

/** @param {DataView} view @param {number} at */
function readText(view, at) {
  return String.fromCharCode(...[0, 1, 2, 3].map((i) => view.getUint8(at + i)));
}
