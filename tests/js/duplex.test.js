import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeF32 } from "../../webroot/lib/audio/pcm.js";
import { DuplexSession } from "../../webroot/lib/duplex.js";
import { SessionError } from "../../webroot/lib/errors.js";
import { TRANSITIONS } from "../../webroot/lib/session.js";
import { goLive, makeSession } from "./fakes.js";

const chunk = new Float32Array(3200).fill(0.1);
const second = encodeF32(new Float32Array(24000).fill(0.2));
const listen = { type: "result", is_listen: true, text: "", audio_data: null };
const speak = (text, extra = {}) => ({ type: "result", is_listen: false, text, audio_data: second, ...extra });

test("a start without a queue goes through every state in order", async () => {
  const made = makeSession(DuplexSession);
  await goLive(made);

  assert.deepEqual(made.world.states(), ["permission", "connecting", "preparing", "live"]);
  assert.match(made.socket.url, /^\/ws\/duplex\/adx_[0-9a-z]+$/);
});

test("an illegal transition throws", () => {
  const { session } = makeSession(DuplexSession);

  assert.throws(() => session.transition("live"), /illegal transition idle -> live/);
});

test("nothing leads out of ended and failed", () => {
  assert.deepEqual([TRANSITIONS.ended, TRANSITIONS.failed], [[], []]);
});

test("queue messages lead to queued, and prepare waits for queue_done", async () => {
  const made = makeSession(DuplexSession);
  await made.session.start({});
  made.socket.says({ type: "queued", position: 2, estimated_wait_s: 9, queue_length: 2 });
  made.socket.says({ type: "queue_update", position: 1, estimated_wait_s: 4, queue_length: 1 });
  assert.deepEqual(made.socket.sentTypes(), []);
  made.socket.says({ type: "queue_done" });

  assert.deepEqual(made.world.states(), ["permission", "connecting", "queued", "preparing"]);
  assert.deepEqual(made.world.of("queue").map(({ position }) => position), [2, 1]);
  assert.equal(made.session.hasWaited, true);
});

test("prepare is sent once, and by itself when no queue_done comes", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const made = makeSession(DuplexSession);
  await made.session.start({ chunkMs: 200, systemPrompt: "Be brief." });
  t.mock.timers.tick(100);
  made.socket.says({ type: "queue_done" });

  assert.deepEqual(made.socket.sent, [{ type: "prepare", system_prompt: "Be brief.", config: { chunk_ms: 200 } }]);
});

test("the engine's chunk_ms decides, and 1000 ms is assumed when it names none", async () => {
  const named = makeSession(DuplexSession);
  await goLive(named, { prepared: { chunk_ms: 200 } });
  const silent = makeSession(DuplexSession);
  await goLive(silent);

  assert.equal(named.capture.chunkMs, 200);
  assert.equal(silent.capture.chunkMs, 1000);
});

test("a chunk is sent as base64 of its float32 samples", async () => {
  const made = makeSession(DuplexSession);
  await goLive(made);
  made.capture.gives(chunk);

  assert.deepEqual(made.socket.sent.at(-1), { type: "audio_chunk", audio_base64: encodeF32(chunk) });
});

test("an error in the queue fails with the server's reason", async () => {
  const made = makeSession(DuplexSession);
  await made.session.start({});
  made.socket.says({ type: "error", error: "Queue full (3 requests)" });

  assert.equal(made.session.state, "failed");
  assert.equal(made.session.error.code, "queue_full");
  assert.equal(made.socket.wasClosed, true);
});

for (const phase of ["connecting", "queued", "preparing", "live"]) {
  test(`a socket lost while ${phase} fails as lost and can be retried`, async () => {
    const made = makeSession(DuplexSession);
    await made.session.start({});
    if (phase === "queued") made.socket.says({ type: "queued", position: 1, estimated_wait_s: 1 });
    if (phase === "preparing" || phase === "live") made.socket.says({ type: "queue_done" });
    if (phase === "live") made.socket.says({ type: "prepared" });
    assert.equal(made.session.state, phase);
    made.socket.drops();

    assert.equal(made.session.state, "failed");
    assert.deepEqual([made.session.error.code, made.session.error.retryable], ["lost", true]);
    assert.equal(made.capture.isClosed, true);
  });
}

test("a refused handshake is told from an absent server", async () => {
  const refused = makeSession(DuplexSession, { openError: new SessionError("unreachable"), serverUp: true });
  await refused.session.start({});
  const absent = makeSession(DuplexSession, { openError: new SessionError("unreachable"), serverUp: false });
  await absent.session.start({});

  assert.equal(refused.session.error.code, "refused");
  assert.equal(absent.session.error.code, "unreachable");
});

test("a refused microphone fails before any socket is opened", async () => {
  const made = makeSession(DuplexSession);
  made.capture.openError = new SessionError("mic_denied");
  await made.session.start({});

  assert.equal(made.session.error.code, "mic_denied");
  assert.equal(made.socket, null);
});

test("no prepared within a minute fails as timeout", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const made = makeSession(DuplexSession);
  await made.session.start({});
  made.socket.says({ type: "queue_done" });
  t.mock.timers.tick(60000);

  assert.equal(made.session.error.code, "timeout");
});

test("cancel in the queue closes the socket and ends as cancelled", async () => {
  const made = makeSession(DuplexSession);
  await made.session.start({});
  made.socket.says({ type: "queued", position: 1, estimated_wait_s: 1 });
  made.session.cancel();

  assert.deepEqual([made.session.state, made.session.endReason], ["ended", "cancelled"]);
  assert.equal(made.socket.wasClosed, true);
});

test("stop says stop, and ends when stopped comes", async () => {
  const made = makeSession(DuplexSession);
  await goLive(made);
  made.session.stop();
  assert.equal(made.session.state, "ending");
  made.socket.says({ type: "stopped" });

  assert.equal(made.socket.sentTypes().at(-1), "stop");
  assert.deepEqual([made.session.state, made.session.endReason], ["ended", "stopped"]);
});

test("stop closes by itself after half a second of silence", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const made = makeSession(DuplexSession);
  await goLive(made);
  made.session.stop();
  t.mock.timers.tick(500);

  assert.equal(made.session.state, "ended");
});

test("words appear as their sound is played, and the turn ends when all was heard", async () => {
  const made = makeSession(DuplexSession);
  await goLive(made);
  made.capture.gives(chunk);
  made.capture.gives(chunk);
  made.socket.says(speak("one two three four"));
  made.player.playsTo(12000);
  made.socket.says(listen);
  made.player.playsTo(24000);

  const captions = made.world.of("caption");
  assert.deepEqual(captions[0], { turn: 1, text: "one two ", isFinal: false, isInterrupted: false });
  assert.deepEqual(captions.at(-1), { turn: 1, text: "one two three four", isFinal: true, isInterrupted: false });
  assert.equal(made.player.ends, 1);
});

test("an interrupted result cuts playback at once and keeps only what was heard", async () => {
  const made = makeSession(DuplexSession);
  await goLive(made);
  made.capture.gives(chunk);
  made.capture.gives(chunk);
  made.socket.says(speak("one two three four"));
  made.player.playsTo(12000);
  made.socket.says({ ...listen, interrupted: true });

  assert.equal(made.player.cuts, 1);
  assert.equal(made.session.metrics.interrupts, 1);
  assert.deepEqual(made.world.of("caption").at(-1), { turn: 1, text: "one two ", isFinal: true, isInterrupted: true });
});

test("interrupt cuts, forces the next chunk to listen, and drops answers to older chunks", async () => {
  const made = makeSession(DuplexSession);
  await goLive(made);
  for (let i = 0; i < 3; i += 1) made.capture.gives(chunk);
  made.socket.says(speak("first"));
  const pushed = made.player.pushed;
  made.session.interrupt();
  made.capture.gives(chunk);
  made.capture.gives(chunk);
  made.socket.says(speak("late"));
  made.socket.says(speak("later"));
  assert.equal(made.player.pushed, pushed);
  made.socket.says(listen);
  made.socket.says(speak("anew"));

  const forced = made.socket.sent.filter(({ type }) => type === "audio_chunk").map((m) => m.force_listen ?? false);
  assert.deepEqual(forced, [false, false, false, true, false]);
  assert.equal(made.player.cuts, 1);
  assert.equal(made.player.pushed, pushed + 24000);
});

test("force listen marks every chunk until it is released", async () => {
  const made = makeSession(DuplexSession);
  await goLive(made);
  made.session.forceListen(true);
  made.capture.gives(chunk);
  made.capture.gives(chunk);
  made.session.forceListen(false);
  made.capture.gives(chunk);

  const forced = made.socket.sent.filter(({ type }) => type === "audio_chunk").map((m) => m.force_listen ?? false);
  assert.deepEqual(forced, [true, true, false]);
});

test("client barge-in interrupts when the microphone hears speech over the model", async () => {
  const made = makeSession(DuplexSession);
  await goLive(made, { options: { clientBargeIn: true } });
  made.capture.hears(0.002, 20, 50);
  made.capture.gives(chunk);
  made.socket.says(speak("hello"));
  made.capture.hears(0.15, 20, 10);

  assert.equal(made.player.cuts, 1);
  assert.equal(made.session.metrics.interrupts, 1);
});

test("without the option speech over the model cuts nothing here: the server decides", async () => {
  const made = makeSession(DuplexSession);
  await goLive(made);
  made.capture.gives(chunk);
  made.socket.says(speak("hello"));
  made.capture.hears(0.15, 20, 20);

  assert.equal(made.player.cuts, 0);
});

test("pause holds the voice and stops the microphone; resumed gives both back", async () => {
  const made = makeSession(DuplexSession);
  await goLive(made, { prepared: { chunk_ms: 200 } });
  made.session.pause();
  assert.deepEqual([made.session.state, made.player.isHeld, made.capture.chunkMs], ["paused", true, null]);
  made.session.resume();
  made.socket.says({ type: "resumed" });

  assert.deepEqual([made.session.state, made.player.isHeld, made.capture.chunkMs], ["live", false, 200]);
});

test("a pause that lasts too long ends the session with that reason", async () => {
  const made = makeSession(DuplexSession);
  await goLive(made);
  made.session.pause();
  made.socket.says({ type: "timeout", reason: "Pause timeout (60.0s)" });

  assert.deepEqual([made.session.state, made.session.endReason], ["ended", "pause_timeout"]);
});

test("unknown message types are counted and ignored", async () => {
  const made = makeSession(DuplexSession);
  await goLive(made);
  made.socket.says({ type: "weather" });
  made.socket.says({ type: "resumed" });

  assert.equal(made.session.metrics.unknown, 1);
  assert.equal(made.session.state, "live");
});

test("a slow uplink skips chunks instead of queueing them", async () => {
  const made = makeSession(DuplexSession);
  await goLive(made);
  made.socket.bufferedAmount = 2 << 20;
  made.capture.gives(chunk);

  assert.equal(made.session.metrics.skipped, 1);
  assert.equal(made.socket.sentTypes().includes("audio_chunk"), false);
});

test("an error in live state warns and the session goes on", async () => {
  const made = makeSession(DuplexSession);
  await goLive(made);
  made.socket.says({ type: "error", error: "Missing audio_base64" });

  assert.equal(made.session.state, "live");
  assert.deepEqual(made.world.of("warning"), [{ code: "server", detail: "Missing audio_base64" }]);
});

test("broken base64 in a result warns and does not end the session", async () => {
  const made = makeSession(DuplexSession);
  await goLive(made);
  made.capture.gives(chunk);
  made.socket.says({ ...speak("x"), audio_data: "AAA" });

  assert.equal(made.session.state, "live");
  assert.equal(made.world.of("warning")[0].code, "bad_message");
});

test("transcripts of the user are passed on at any time", async () => {
  const made = makeSession(DuplexSession);
  await goLive(made);
  made.socket.says({ type: "transcript", role: "user", text: "what time is it" });

  assert.deepEqual(made.world.of("user"), [{ text: "what time is it" }]);
});
