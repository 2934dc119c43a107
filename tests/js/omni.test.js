import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeF32 } from "../../webroot/lib/audio/pcm.js";
import { SessionError, errorFromMedia } from "../../webroot/lib/errors.js";
import { OmniSession } from "../../webroot/lib/omni.js";
import { SLICE_PX, frameSize } from "../../webroot/lib/video/frame.js";
import { FakeCamera, goLive, makeSession } from "./fakes.js";

const SLICE_AREA = SLICE_PX * SLICE_PX;
const sound = (ms, value = 0.1) => new Float32Array(16 * ms).fill(value);
const settled = () => new Promise((resolve) => setImmediate(resolve));

async function call(options = {}) {
  const camera = new FakeCamera();
  const made = makeSession(OmniSession, { camera });
  await goLive(made, { options });
  return { ...made, camera, get chunks() { return made.socket.sent.filter(({ type }) => type === "audio_chunk"); } };
}

for (const [width, height] of [[1920, 1080], [1280, 720], [640, 480], [720, 1280], [4000, 300]]) {
  test(`a picture of ${width}x${height} is sent with the pixels that its slices have, in its proportions`, () => {
    for (const maxSlices of [1, 2]) {
      const size = frameSize(width, height, maxSlices);
      const wanted = Math.min(width * height, SLICE_AREA * maxSlices);

      assert.ok(size.width * size.height <= wanted);
      assert.ok(size.width * size.height > wanted * 0.985, JSON.stringify(size));
      assert.ok(Math.abs(size.width / size.height / (width / height) - 1) < 0.02);
    }
  });
}

test("a small picture is not made larger", () => {
  assert.deepEqual(frameSize(320, 240, 2), { width: 320, height: 240 });
});

test("a call has an id that the server counts to calls with pictures, and names its slices at the start", async () => {
  const plain = await call();
  const detailed = await call({ isHd: true });

  assert.match(plain.socket.url, /^\/ws\/duplex\/omni_[0-9a-z]+$/);
  assert.deepEqual(plain.socket.sent[0], { type: "prepare", config: {}, max_slice_nums: 1 });
  assert.equal(detailed.socket.sent[0].max_slice_nums, 2);
});

test("what a preset says goes with prepare: instructions, voice, length of answers", async () => {
  const made = await call({ systemPrompt: "Look.", refAudio: "AAAA", lengthPenalty: 1.2 });

  assert.deepEqual(made.socket.sent[0], {
    type: "prepare", system_prompt: "Look.", ref_audio_base64: "AAAA", config: { length_penalty: 1.2 }, max_slice_nums: 1,
  });
});

test("each chunk of a second has one picture of its moment", async () => {
  const made = await call();
  made.capture.gives(sound(1000));
  made.capture.gives(sound(1000));
  await settled();

  assert.deepEqual(made.chunks.map(({ frame_base64_list }) => frame_base64_list), [["picture-1"], ["picture-2"]]);
  assert.equal(made.chunks[0].audio_base64, encodeF32(sound(1000)));
});

test("shorter chunks share a picture: one for each second of sound", async () => {
  const made = await call();
  for (let i = 0; i < 11; i += 1) made.capture.gives(sound(200));
  await settled();

  const withPicture = made.chunks.flatMap(({ frame_base64_list }, at) => (frame_base64_list ? [at] : []));
  assert.deepEqual(withPicture, [0, 5, 10]);
  assert.equal(made.session.metrics.summary().frames, 3);
});

test("detail can be switched on and off while the call runs: each picture says its slices", async () => {
  const made = await call({ isHd: true });
  made.capture.gives(sound(1000));
  made.session.isHd = false;
  made.capture.gives(sound(1000));
  await settled();

  assert.deepEqual(made.chunks.map(({ max_slice_nums }) => max_slice_nums), [2, 1]);
  assert.deepEqual(made.camera.asked, [2, 1]);
});

test("sound keeps its order while a picture is being made", async () => {
  const made = await call();
  let ready;
  made.camera.gives = () => new Promise((resolve) => (ready = resolve));
  for (const value of [0.1, 0.2, 0.3]) made.capture.gives(sound(200, value));
  await settled();
  assert.equal(made.chunks.length, 0);
  ready({ base64: "late", bytes: 1, width: 1, height: 1 });
  await settled();

  assert.deepEqual(made.chunks.map(({ audio_base64 }) => audio_base64), [0.1, 0.2, 0.3].map((value) => encodeF32(sound(200, value))));
  assert.deepEqual(made.chunks[0].frame_base64_list, ["late"]);
});

test("sound waits for no picture that takes too long", async (t) => {
  const made = await call();
  made.camera.gives = () => new Promise(() => undefined);
  t.mock.timers.enable({ apis: ["setTimeout"] });
  made.capture.gives(sound(1000));
  t.mock.timers.tick(200);
  t.mock.timers.reset();
  await settled();

  assert.deepEqual(made.chunks, [{ type: "audio_chunk", audio_base64: encodeF32(sound(1000)) }]);
  assert.equal(made.session.metrics.framesSkipped, 1);
});

test("a picture that comes too late for its second goes with the next one, unless the camera is off by then", async (t) => {
  const made = await call();
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const lateBy = async (gives) => {
    let ready;
    made.camera.gives = () => new Promise((resolve) => (ready = resolve));
    made.capture.gives(sound(1000));
    t.mock.timers.tick(200);
    await settled();
    ready({ base64: gives, bytes: 1, width: 1, height: 1 });
    await settled();
  };
  await lateBy("first");
  await lateBy("second");
  made.camera.gives = () => null;
  made.capture.gives(sound(1000));
  await settled();

  assert.deepEqual(made.chunks.map(({ frame_base64_list }) => frame_base64_list?.[0]), [undefined, "first", undefined]);
});

test("a camera that gives nothing, or fails, leaves the sound alone", async () => {
  const made = await call();
  made.camera.gives = () => null;
  made.capture.gives(sound(1000));
  made.camera.gives = () => Promise.reject(new Error("no canvas"));
  made.capture.gives(sound(1000));
  await settled();

  assert.deepEqual(made.chunks.map((chunk) => "frame_base64_list" in chunk), [false, false]);
  assert.deepEqual(made.world.of("warning"), []);
});

test("on a slow uplink pictures are left out before sound is, and that is said once", async () => {
  const made = await call();
  made.socket.bufferedAmount = 600 * 1024;
  made.capture.gives(sound(1000));
  made.capture.gives(sound(1000));
  await settled();
  const { frames, framesSkipped, skipped, sent } = made.session.metrics.summary();

  assert.deepEqual({ frames, framesSkipped, skipped, sent }, { frames: 0, framesSkipped: 2, skipped: 0, sent: 2 });
  assert.deepEqual(made.world.of("warning").map(({ code }) => code), ["slow_pictures"]);
});

test("listening is forced on the chunk with the picture, too", async () => {
  const made = await call();
  made.session.forceListen(true);
  made.capture.gives(sound(1000));
  await settled();

  assert.equal(made.chunks[0].force_listen, true);
  assert.deepEqual(made.chunks[0].frame_base64_list, ["picture-1"]);
});

test("nothing is seen while the call is paused", async () => {
  const made = await call();
  made.session.pause();
  made.capture.gives(sound(1000));
  await settled();

  assert.deepEqual([made.chunks.length, made.camera.asked.length], [0, 0]);
});

test("a refused camera fails the start by its name, and an open one is not opened again", async () => {
  const camera = new FakeCamera();
  camera.openError = errorFromMedia(new DOMException("no", "NotAllowedError"), "cam");
  const refused = makeSession(OmniSession, { camera });
  await refused.session.start({});
  camera.isOpen = true;
  const open = makeSession(OmniSession, { camera });
  await open.session.start({});

  assert.ok(refused.session.error instanceof SessionError);
  assert.deepEqual([refused.session.state, refused.session.error.code], ["failed", "cam_denied"]);
  assert.equal(open.session.state, "connecting");
});
