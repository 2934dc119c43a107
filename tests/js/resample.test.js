import assert from "node:assert/strict";
import { test } from "node:test";
import { Resampler } from "../../webroot/lib/audio/resample.js";

const tone = (hz, rateHz, seconds = 1, amplitude = 0.5) =>
  Float32Array.from({ length: rateHz * seconds }, (_, i) => amplitude * Math.sin((2 * Math.PI * hz * i) / rateHz));

/** Signal-to-rest ratio in dB of *samples* against the best-fitting tone of *hz*, edges left out. */
function snrDb(samples, hz, rateHz) {
  const body = samples.slice(Math.round(0.1 * rateHz), -Math.round(0.1 * rateHz));
  const w = (2 * Math.PI * hz) / rateHz;
  let cc = 0, ss = 0, cs = 0, xc = 0, xs = 0;
  body.forEach((x, i) => {
    const c = Math.cos(w * i), s = Math.sin(w * i);
    cc += c * c; ss += s * s; cs += c * s; xc += x * c; xs += x * s;
  });
  const det = cc * ss - cs * cs, a = (xc * ss - xs * cs) / det, b = (xs * cc - xc * cs) / det;
  let signal = 0, rest = 0;
  body.forEach((x, i) => {
    const fit = a * Math.cos(w * i) + b * Math.sin(w * i);
    signal += fit * fit;
    rest += (x - fit) ** 2;
  });
  return 10 * Math.log10(signal / rest);
}

const levelDb = (samples, rateHz) => {
  const body = samples.slice(Math.round(0.1 * rateHz), -Math.round(0.1 * rateHz));
  return 10 * Math.log10(body.reduce((sum, x) => sum + x * x, 0) / body.length / 0.125);
};

for (const [from, to] of [[48000, 16000], [44100, 16000], [24000, 48000], [24000, 44100], [96000, 16000]]) {
  for (const hz of [300, 1000, 5000]) {
    test(`a ${hz} Hz tone survives ${from} -> ${to} with more than 70 dB`, () => {
      const out = new Resampler(from, to).convert(tone(hz, from));

      assert.ok(snrDb(out, hz, to) > 70, `${snrDb(out, hz, to)} dB`);
      assert.ok(Math.abs(levelDb(out, to)) < 0.05, `level changed by ${levelDb(out, to)} dB`);
    });
  }
}

for (const hz of [8100, 9000, 12000, 15500, 20000]) {
  test(`a ${hz} Hz tone leaves no alias above -60 dB at 16 kHz`, () => {
    const out = new Resampler(48000, 16000).convert(tone(hz, 48000));

    assert.ok(levelDb(out, 16000) < -60, `${levelDb(out, 16000)} dB`);
  });
}

test("blocks of any size give the same samples as one piece", () => {
  const input = tone(700, 44100, 0.5);
  const whole = new Resampler(44100, 16000);
  const expected = new Float32Array(whole.maxOutputs(input.length));
  const total = whole.process(input, expected);

  const resampler = new Resampler(44100, 16000);
  const parts = [];
  for (let at = 0, size = 1; at < input.length; at += size, size = (size * 7) % 128 || 1) {
    const out = new Float32Array(resampler.maxOutputs(size));
    parts.push(...out.subarray(0, resampler.process(input.subarray(at, at + size), out)));
  }

  assert.deepEqual(Float32Array.from(parts), expected.subarray(0, total));
});

test("equal rates pass through untouched", () => {
  const input = tone(440, 16000, 0.1);

  assert.deepEqual(new Resampler(16000, 16000).convert(input), input);
});
