import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeF32 } from "../../webroot/lib/audio/pcm.js";
import { ChatTurn } from "../../webroot/lib/chat.js";
import { FakeClock, FakeSocket } from "./fakes.js";

function ask(options = {}) {
  const clock = new FakeClock();
  const made = { clock, texts: [], sounds: [], places: [] };
  const turn = new ChatTurn({
    makeSocket: (url, handlers) => (made.socket = new FakeSocket(url, handlers)),
    now: clock.now,
    isServerUp: async () => true,
  });
  turn.addEventListener("text", ({ detail }) => made.texts.push(detail.text));
  turn.addEventListener("queue", ({ detail }) => made.places.push(detail?.position ?? null));
  turn.addEventListener("audio", ({ detail }) => made.sounds.push(detail));
  made.turn = turn;
  made.outcome = turn.run([{ role: "user", content: "Hi" }], options);
  return made;
}

const opened = () => new Promise((resolve) => setImmediate(resolve));

test("an answer streams in and ends with its numbers", async () => {
  const made = ask({ maxTokens: 64 });
  await opened();
  made.socket.says({ type: "prefill_done", input_tokens: 7 });
  made.clock.advance(120);
  made.socket.says({ type: "chunk", text_delta: "Hel" });
  made.socket.says({ type: "chunk", text_delta: "lo" });
  made.socket.says({ type: "done", text: "Hello", generated_tokens: 2, input_tokens: 7 });

  const outcome = await made.outcome;
  assert.deepEqual(made.texts, ["Hel", "Hello"]);
  assert.deepEqual([outcome.text, outcome.generatedTokens, outcome.firstTextMs, outcome.isStopped], ["Hello", 2, 120, false]);
  assert.equal(made.socket.sent[0].generation.max_new_tokens, 64);
});

test("a place in the line is told until the turn comes", async () => {
  const made = ask();
  await opened();
  made.socket.says({ type: "queued", position: 2, estimated_wait_s: 20, queue_length: 2 });
  made.socket.says({ type: "queue_update", position: 1, estimated_wait_s: 9, queue_length: 1 });
  made.socket.says({ type: "prefill_done", input_tokens: 7 });
  made.socket.says({ type: "done", text: "Hello" });
  await made.outcome;

  assert.deepEqual(made.places, [2, 1, null]);
});

test("cancel closes the socket and keeps what came", async () => {
  const made = ask();
  await opened();
  made.socket.says({ type: "chunk", text_delta: "Half an " });
  made.turn.cancel();
  made.socket.says({ type: "chunk", text_delta: "answer" });

  const outcome = await made.outcome;
  assert.deepEqual([outcome.text, outcome.isStopped, made.socket.wasClosed], ["Half an ", true, true]);
});

test("an error message becomes a SessionError with its reason", async () => {
  const made = ask();
  await opened();
  made.socket.says({ type: "error", error: "No worker available" });

  await assert.rejects(made.outcome, { code: "no_worker" });
});

test("a socket that drops before done is an error, not an empty answer", async () => {
  const made = ask();
  await opened();
  made.socket.drops(1006);

  await assert.rejects(made.outcome, { code: "lost" });
});

test("spoken answers are asked for and decoded", async () => {
  const made = ask({ hasVoice: true });
  await opened();
  made.socket.says({ type: "chunk", audio_data: encodeF32(new Float32Array([0.5, -0.5])) });
  made.socket.says({ type: "done", text: "x" });
  await made.outcome;

  assert.deepEqual([...made.sounds[0]], [0.5, -0.5]);
  assert.equal(made.socket.sent[0].tts.enabled, true);
});

test("what is cancelled before it runs asks the server nothing", async () => {
  /** The voice opens first, and Stop may be pressed meanwhile. */
  let sockets = 0;
  const turn = new ChatTurn({ makeSocket: () => (sockets += 1), now: () => 0, isServerUp: async () => true });
  turn.cancel();
  const outcome = await turn.run([{ role: "user", content: "Hi" }], {});

  assert.deepEqual([outcome.isStopped, outcome.text, sockets], [true, "", 0]);
});
