/** Microphone and camera: what is closed while the browser still asks must not stay on. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { Capture } from "../../webroot/lib/audio/capture.js";
import { Camera } from "../../webroot/lib/video/camera.js";

/** A browser whose permission question is answered when the test says so. */
let asked, contexts;

class Track {
  isOn = true;
  stop() {
    this.isOn = false;
  }
  getSettings() {
    return {};
  }
}

class Stream {
  tracks = [new Track()];
  getTracks = () => this.tracks;
  getAudioTracks = () => this.tracks;
  getVideoTracks = () => this.tracks;
}

class Context {
  isOpen = true;
  audioWorklet = { addModule: () => new Promise((resolve) => (this.moduleLoaded = resolve)) };
  constructor() {
    contexts.push(this);
  }
  createMediaStreamSource = () => ({ connect() {} });
  async resume() {}
  async close() {
    this.isOpen = false;
  }
}

class Node {
  port = { postMessage() {}, close() {} };
}

const settled = () => new Promise((resolve) => setImmediate(resolve));

beforeEach(() => {
  [asked, contexts] = [[], []];
  const getUserMedia = () => new Promise((resolve, reject) => asked.push({ resolve, reject }));
  Object.defineProperty(globalThis, "navigator", { configurable: true, value: { mediaDevices: { getUserMedia } } });
  Object.assign(globalThis, { isSecureContext: true, AudioContext: Context, AudioWorkletNode: Node, OffscreenCanvas: class {} });
});

afterEach(() => {
  for (const name of ["navigator", "isSecureContext", "AudioContext", "AudioWorkletNode", "OffscreenCanvas"]) delete globalThis[name];
});

const video = () => ({ srcObject: null, play: async () => undefined });

for (const [name, make] of [["microphone", () => new Capture()], ["camera", () => new Camera(video())]]) {
  test(`a ${name} that is closed before the browser gives it is let go`, async () => {
    const device = make(), stream = new Stream();
    const opening = device.open({});
    device.close();
    asked[0].resolve(stream);
    await opening;

    assert.equal(stream.tracks[0].isOn, false);
    assert.deepEqual(contexts.filter(({ isOpen }) => isOpen), []);
  });

  test(`of two ${name}s that are asked for at once only the last one stays on`, async () => {
    const device = make(), [first, second] = [new Stream(), new Stream()];
    const openings = [device.open({}), device.open({})];
    asked[1].resolve(second);
    await settled();
    asked[0].resolve(first);
    await settled();
    contexts.forEach(({ moduleLoaded }) => moduleLoaded());
    await Promise.all(openings);

    assert.deepEqual([first.tracks[0].isOn, second.tracks[0].isOn], [false, true]);
  });

  test(`a ${name} that is refused after it was closed troubles nobody`, async () => {
    const device = make();
    const opening = device.open({});
    device.close();
    asked[0].reject(Object.assign(new Error("no"), { name: "NotAllowedError" }));

    await assert.doesNotReject(opening);
  });
}

test("a microphone that is closed while its worklet loads leaves nothing open", async () => {
  const capture = new Capture(), stream = new Stream();
  const opening = capture.open({});
  asked[0].resolve(stream);
  await settled();
  capture.close();
  contexts[0].moduleLoaded();
  await opening;

  assert.equal(stream.tracks[0].isOn, false);
  assert.equal(contexts[0].isOpen, false);
});
