import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeF32 } from "../../webroot/lib/audio/pcm.js";
import { HalfDuplexSession } from "../../webroot/lib/halfduplex.js";
import { goLive, makeSession } from "./fakes.js";

const chunk = new Float32Array(8000);
const sound = encodeF32(new Float32Array(2400));
const sentChunks = (made) => made.socket.sentTypes().filter((type) => type === "audio_chunk").length;

test("an utterance leads through user, generating, speaking and back to listening", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const made = makeSession(HalfDuplexSession);
  await goLive(made);
  made.socket.says({ type: "vad_state", speaking: true });
  made.socket.says({ type: "vad_state", speaking: false });
  made.socket.says({ type: "generating", speech_duration_ms: 1200 });
  made.socket.says({ type: "chunk", text_delta: "Hello", audio_data: sound });
  made.player.says("started");
  made.socket.says({ type: "turn_done", turn_index: 1, text: "Hello there" });
  made.player.isPlaying = false;
  made.player.says("drained");
  t.mock.timers.tick(800);

  assert.deepEqual(made.world.of("phase").map(({ phase }) => phase), ["user", "listening", "generating", "speaking", "listening"]);
  assert.equal(made.world.of("caption").at(-1).text, "Hello there");
});

test("the microphone is shut while the model thinks and speaks", async () => {
  const made = makeSession(HalfDuplexSession);
  await goLive(made);
  made.capture.gives(chunk);
  made.socket.says({ type: "generating", speech_duration_ms: 900 });
  made.capture.gives(chunk);

  assert.equal(sentChunks(made), 1);
});

test("a failed generation opens the microphone again", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const made = makeSession(HalfDuplexSession);
  await goLive(made);
  made.socket.says({ type: "generating", speech_duration_ms: 900 });
  made.socket.says({ type: "error", error: "generation failed" });
  made.socket.says({ type: "turn_done", turn_index: 1, text: "" });
  t.mock.timers.tick(800);
  made.capture.gives(chunk);

  assert.equal(made.session.phase, "listening");
  assert.equal(sentChunks(made), 1);
});

test("after an interrupt the rest of that answer stays silent", async () => {
  const made = makeSession(HalfDuplexSession);
  await goLive(made);
  made.socket.says({ type: "generating", speech_duration_ms: 900 });
  made.socket.says({ type: "chunk", text_delta: "a", audio_data: sound });
  made.session.interrupt();
  made.socket.says({ type: "chunk", text_delta: "b", audio_data: sound });

  assert.equal(made.player.pushed, 2400);
  assert.equal(made.player.cuts, 1);
});

test("an interrupt stops the turn in the server too, once, and says so in the caption", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const made = makeSession(HalfDuplexSession);
  await goLive(made);
  made.socket.says({ type: "generating", speech_duration_ms: 900 });
  made.socket.says({ type: "chunk", text_delta: "Once upon", audio_data: sound });
  made.player.says("started");
  made.session.interrupt();
  made.socket.says({ type: "interrupted" });
  made.socket.says({ type: "turn_done", turn_index: 1, text: "Once upon" });
  t.mock.timers.tick(800);
  made.session.interrupt();

  assert.deepEqual(made.socket.sentTypes(), ["prepare", "interrupt"]);
  assert.deepEqual(made.world.of("caption").at(-1), { turn: 1, text: "Once upon", isFinal: true, isInterrupted: true });
  assert.equal(made.session.phase, "listening");
});

test("the microphone opens also when the turn ends long after its sound was cut", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const made = makeSession(HalfDuplexSession);
  await goLive(made);
  made.socket.says({ type: "generating", speech_duration_ms: 900 });
  made.socket.says({ type: "chunk", text_delta: "Once upon", audio_data: sound });
  made.player.says("started");
  made.session.interrupt();
  t.mock.timers.tick(5000);
  made.socket.says({ type: "turn_done", turn_index: 1, text: "Once upon" });
  t.mock.timers.tick(800);

  assert.equal(made.session.phase, "listening");
});

test("prepare carries the chosen VAD settings", async () => {
  const made = makeSession(HalfDuplexSession);
  await goLive(made, { options: { systemPrompt: "Hi.", vadThreshold: 0.6, vadSilenceMs: 500 } });

  const prepare = made.socket.sent[0];
  assert.deepEqual(prepare.system_content, [{ type: "text", text: "Hi." }]);
  assert.deepEqual(prepare.config.vad, { threshold: 0.6, min_silence_duration_ms: 500 });
});

test("an answer that the end of the call cuts off is closed as interrupted", async () => {
  const made = makeSession(HalfDuplexSession);
  await goLive(made);
  made.socket.says({ type: "generating", speech_duration_ms: 900 });
  made.socket.says({ type: "chunk", text_delta: "Once upon", audio_data: sound });
  made.socket.drops();

  const last = made.world.of("caption").at(-1);
  assert.deepEqual([last.text, last.isFinal, last.isInterrupted], ["Once upon", true, true]);
});

test("nothing changes any more once the call is over", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const made = makeSession(HalfDuplexSession);
  await goLive(made);
  made.socket.says({ type: "generating", speech_duration_ms: 900 });
  made.socket.says({ type: "turn_done", turn_index: 1, text: "" });
  made.socket.drops();
  const before = made.world.seen.length;
  t.mock.timers.tick(800);

  assert.equal(made.world.seen.length, before);
});
