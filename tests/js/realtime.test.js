import assert from "node:assert/strict";
import { after, test } from "node:test";

import { decodeF32, encodeF32 } from "../../webroot/lib/audio/pcm.js";
import { decodePcm16, encodePcm16 } from "../../webroot/lib/audio/pcm16.js";
import { SessionError } from "../../webroot/lib/errors.js";
import { EventLog, isShown, shortened } from "../../webroot/lib/event-log.js";
import { RealtimeCall } from "../../webroot/lib/realtime.js";
import { LANGUAGES, snippet } from "../../webroot/lib/snippets.js";
import { FakeCapture, FakeClock, FakePlayer, FakeSocket } from "./fakes.js";

const calls = [];
// An open call holds a timer.
after(() => calls.forEach((call) => call.stop()));

const OPTIONS = { dialect: "r1", mode: "audio", instructions: "Be brief.", chunkMs: 1000, sound: "microphone" };
const CHUNK = Float32Array.from({ length: 16000 }, (_, i) => Math.sin(i) / 2);

async function made(options = {}, { openError = null, serverUp = true, grab = null } = {}) {
  const world = { clock: new FakeClock(), capture: new FakeCapture(), player: new FakePlayer(), events: [], states: [], said: [], troubles: [] };
  world.call = new RealtimeCall({
    makeSocket: (url, handlers) => (world.socket = new FakeSocket(url, handlers, { openError })),
    capture: world.capture, player: world.player, now: world.clock.now, isServerUp: async () => serverUp, grab,
  });
  calls.push(world.call);
  for (const [type, list] of [["event", "events"], ["state", "states"], ["said", "said"], ["trouble", "troubles"]]) {
    world.call.addEventListener(type, ({ detail }) => world[list].push(detail));
  }
  await world.call.start({ ...OPTIONS, ...options });
  return world;
}

async function openR1(options, parts) {
  const world = await made(options, parts);
  world.socket.says({ type: "session.queue_done" });
  world.socket.says({ type: "session.created", session_id: "rt_1", prompt_length: 1 });
  return world;
}

/** Chunks are sent in a later turn of the loop, as a picture may have to be taken first. */
const settled = () => new Promise((resolve) => setImmediate(resolve));

test("16-bit PCM survives base64, within half a step, and is clipped", () => {
  const samples = Float32Array.of(0, 0.5, -0.5, 1, -1, 3);
  const back = decodePcm16(encodePcm16(samples));

  back.forEach((sample, i) => assert.ok(Math.abs(sample - Math.min(1, samples[i])) < 1 / 16384));
  assert.throws(() => decodePcm16(btoa("abc")), RangeError);
});

test("an R1 call is opened when the queue is done, and sends sound when it is created", async () => {
  const { socket, capture, states, call } = await openR1();
  capture.gives(CHUNK);
  await settled();

  assert.equal(socket.url, "/v1/realtime?mode=audio&dialect=r1");
  assert.deepEqual(socket.sentTypes(), ["session.update", "input_audio_buffer.append"]);
  assert.deepEqual(socket.sent[0].session, { instructions: "Be brief." });
  assert.deepEqual(decodeF32(socket.sent[1].audio), CHUNK);
  assert.deepEqual(states, ["permission", "connecting", "opening", "open"]);
  assert.equal(capture.chunkMs, 1000);
  assert.equal(call.error, null);
});

test("each unit's answer is timed from its own chunk", async () => {
  const { socket, capture, clock, events, call } = await openR1();
  capture.gives(CHUNK);
  await settled();
  clock.advance(1000);
  capture.gives(CHUNK);
  await settled();
  clock.advance(50);
  socket.says({ type: "response.listen", kv_cache_length: 7 });
  socket.says({ type: "response.output_audio.delta", text: "Hi", audio: encodeF32(CHUNK), end_of_turn: true, kv_cache_length: 9 });

  assert.deepEqual(events.slice(-2).map(({ latencyMs }) => latencyMs), [1050, 50]);
  assert.deepEqual([call.kvTokens, call.summary().numAnswers], [9, 2]);
});

test("words and sound of R1 are said and played, and a turn ends", async () => {
  const { socket, player, said } = await openR1();
  socket.says({ type: "response.output_audio.delta", text: "Hi", audio: encodeF32(CHUNK), end_of_turn: false });
  socket.says({ type: "response.listen" });

  assert.equal(player.pushed, CHUNK.length);
  assert.equal(player.ends, 1);
  assert.deepEqual(said.map(({ text, endsTurn }) => [text, endsTurn]), [["Hi", false], ["", true]]);
});

test("an interruption forces the next chunk to listen, and old answers are not played", async () => {
  const { socket, capture, player, call } = await openR1();
  capture.gives(CHUNK);
  await settled();
  call.interrupt();
  socket.says({ type: "response.output_audio.delta", text: "old", audio: encodeF32(CHUNK), end_of_turn: false });
  capture.gives(CHUNK);
  await settled();
  capture.gives(CHUNK);
  await settled();

  assert.deepEqual([player.cuts, player.pushed], [1, 0]);
  assert.deepEqual(socket.sent.slice(2).map(({ force_listen }) => force_listen), [true, undefined]);
});

test("a picture goes with its chunk", async () => {
  const { socket, capture } = await openR1({ mode: "video" }, { grab: async () => "jpeg" });
  capture.gives(CHUNK);
  await settled();

  assert.match(socket.url, /mode=video/);
  assert.deepEqual(socket.sent[1].video_frames, ["jpeg"]);
});

test("the end is said to the server, and its word for it is kept", async () => {
  const { socket, call, states } = await openR1();
  call.stop();
  socket.says({ type: "session.closed", reason: "stopped" });
  socket.drops(1000);

  assert.deepEqual(socket.sent.at(-1), { type: "session.close", reason: "user_stop" });
  assert.deepEqual(states.slice(-2), ["closing", "closed"]);
  assert.deepEqual([call.error, call.ending], [null, "stopped, close 1000"]);
});

test("a refused handshake is told from a server that is away", async () => {
  const openError = new SessionError("unreachable", "1006");
  const refused = await made({}, { openError });
  const away = await made({}, { openError, serverUp: false });

  assert.deepEqual([refused.call.error.code, away.call.error.code], ["refused", "unreachable"]);
  assert.ok(refused.call.isOver && refused.capture.isClosed);
});

test("a socket that is lost says so; a normal close is an end", async () => {
  const lost = await openR1();
  lost.socket.drops(1006);
  const done = await openR1();
  done.socket.says({ type: "session.closed", reason: "timeout" });
  done.socket.drops(1000);

  assert.equal(lost.call.error.code, "lost");
  assert.deepEqual([done.call.error, done.call.ending], [null, "timeout, close 1000"]);
});

test("a sound that cannot be read is trouble, and the call goes on", async () => {
  const { socket, call, troubles } = await openR1();
  socket.says({ type: "response.output_audio.delta", text: "", audio: btoa("abc"), end_of_turn: false });
  socket.says({ type: "error", error: { code: "invalid_payload", message: "too short" } });

  assert.match(troubles[0], /float32/);
  assert.equal(troubles[1], "too short");
  assert.equal(call.state, "open");
});

test("OpenAI's dialect waits for the session, sends 24 kHz PCM, and times the answer from the end of speech", async () => {
  const { socket, capture, clock, player, said, events } = await made({ dialect: "openai" });
  socket.says({ type: "session.created", session: {} });
  socket.says({ type: "session.updated", session: {} });
  capture.gives(new Float32Array(16000));
  await settled();
  socket.says({ type: "input_audio_buffer.speech_started" });
  socket.says({ type: "input_audio_buffer.speech_stopped" });
  clock.advance(300);
  socket.says({ type: "response.output_audio.delta", delta: encodePcm16(CHUNK) });
  socket.says({ type: "response.output_audio_transcript.delta", delta: "Hello" });
  socket.says({ type: "conversation.item.input_audio_transcription.completed", transcript: "Hi there" });
  socket.says({ type: "response.done", response: { status: "completed" } });

  assert.deepEqual(socket.sentTypes(), ["session.update", "input_audio_buffer.append"]);
  assert.equal(socket.sent[0].session.audio.input.format.rate, 24000);
  assert.ok(Math.abs(decodePcm16(socket.sent[1].audio).length - 24000) < 100);
  assert.equal(events.find(({ message }) => message.type === "response.output_audio.delta").latencyMs, 300);
  assert.deepEqual([player.cuts, player.pushed, player.ends], [1, CHUNK.length, 1]);
  assert.deepEqual(said.map(({ who, text }) => [who, text]), [["ai", "Hello"], ["user", "Hi there"], ["ai", ""]]);
});

test("R2 answers a unit in several frames, of which the first is timed", async () => {
  const { socket, capture, clock, player, said, events } = await made({ dialect: "r2" });
  socket.says({ type: "session.queue_done" });
  socket.says({ type: "session.created", session_id: "sess_1" });
  capture.gives(CHUNK);
  await settled();
  clock.advance(80);
  socket.says({ type: "response.output.delta", kind: "text", text: "Hi", input_id: "in_1" });
  clock.advance(5);
  socket.says({ type: "response.output.delta", kind: "audio", audio: encodeF32(CHUNK), input_id: "in_1" });
  socket.says({ type: "response.output.delta", kind: "listen", text: "", input_id: "in_1" });
  socket.says({ type: "session.user_transcript", text: "hello", final: true });

  assert.equal(socket.url, "/v1/realtime?mode=audio&dialect=r2");
  assert.deepEqual(socket.sent[0], { type: "session.init", payload: { system_prompt: "Be brief.", config: { chunk_ms: 1000 } } });
  assert.equal(socket.sent[1].input.input_id, "in_1");
  assert.deepEqual(events.slice(-4).map(({ latencyMs }) => latencyMs), [80, null, null, null]);
  assert.deepEqual([player.pushed, player.ends], [CHUNK.length, 1]);
  assert.deepEqual(said.map(({ who, text }) => [who, text]), [["ai", "Hi"], ["ai", ""], ["user", "hello"]]);
});

const event = (type, more = {}) => ({ direction: "in", message: { type, ...more }, numBytes: 10, atMs: 5, latencyMs: null });

test("the log is bounded, and says what fell out", () => {
  const log = new EventLog(3);
  const gone = [1, 2, 3, 4].map((n) => log.add(event("x", { n })).gone);

  assert.deepEqual(log.rows.map(({ message }) => message.n), [2, 3, 4]);
  assert.deepEqual(gone.map((row) => row?.message.n), [undefined, undefined, undefined, 1]);
});

test("runs of sent sound are one row", () => {
  const log = new EventLog();
  const sound = { ...event("input_audio_buffer.append"), direction: "out" };
  const added = [sound, sound, event("response.listen"), sound].map((one) => log.add(one).isNew);

  assert.deepEqual(added, [true, false, true, true]);
  assert.deepEqual([log.rows[0].count, log.rows[0].numBytes], [2, 20]);
});

test("what is long is cut, at every depth, and the event itself stays whole", () => {
  const long = "A".repeat(1000);
  const whole = { audio: long, session: { list: Array.from({ length: 100 }, () => long) }, n: 1, none: null };
  const short = shortened(whole);

  assert.match(short.audio, /^A{48}… \(1000 characters\)$/);
  assert.equal(short.session.list.length, 41);
  assert.deepEqual([short.n, short.none, whole.audio.length], [1, null, 1000]);
});

test("rows are found by direction and words, and left out by a minus", () => {
  const log = new EventLog();
  log.add(event("response.output_audio.delta", { text: "Blue sky" }));
  log.add({ ...event("session.update"), direction: "out" });
  const found = (direction, words) => log.rows.filter((row) => isShown(row, { direction, words })).map(({ type }) => type);

  assert.deepEqual(found("all", ""), ["response.output_audio.delta", "session.update"]);
  assert.deepEqual(found("in", ""), ["response.output_audio.delta"]);
  assert.deepEqual(found("all", "BLUE"), ["response.output_audio.delta"]);
  assert.deepEqual(found("all", "-audio"), ["session.update"]);
  assert.deepEqual(found("all", "-"), ["response.output_audio.delta", "session.update"]);
});

test("the log as text is one JSON object a line", () => {
  const log = new EventLog();
  log.add({ ...event("a"), latencyMs: 12.4 });
  log.add(event("b"));

  const lines = log.asText().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual(lines[0], { at_ms: 5, direction: "in", latency_ms: 12, event: { type: "a" } });
  assert.equal(lines[1].event.type, "b");
});

test("code names the address, the instructions and where a key belongs", () => {
  for (const language of LANGUAGES) {
    for (const dialect of ["r1", "r2", "openai"]) {
      const wanted = { dialect, mode: "video", instructions: 'Say "no"\n', origin: "https://talk.example:8006", needsKey: true };
      const locked = snippet(language, wanted), open = snippet(language, { ...wanted, needsKey: false });

      assert.ok(locked.includes("talk.example:8006") && locked.includes('"Say \\"no\\"\\n"'), `${language} ${dialect}`);
      assert.ok(locked.includes("YOUR_KEY") && !open.includes("YOUR_KEY"));
    }
  }
});
