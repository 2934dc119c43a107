/** A recorded session as the viewer reads it. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { clock } from "../../webroot/lib/clock.js";
import { RecordedSession, latency, sayings } from "../../webroot/lib/recording.js";

const timing = (ms) => ({ wall_clock_ms: ms });
const listen = (index, ms = 10) => ({ index, receive_ts_ms: index * 1000 + 500, replay_ts_ms: index * 1000, result: { mode: "LISTEN", timing: timing(ms) } });
const speak = (index, text, end = false) => ({ ...listen(index, 200), result: { mode: "SPEAK", timing: timing(200), text, end_of_turn: end } });

test("the units of one answer make one saying, and a turn's end begins another", () => {
  const chunks = [listen(0), speak(1, "Good "), speak(2, "day.", true), speak(3, "Again."), listen(4), speak(5, "New.")];

  const said = sayings({ mode: "duplex", chunks });

  assert.deepEqual(said.map(({ who, atMs, text }) => [who, atMs, text]), [["ai", 1000, "Good day."], ["ai", 3000, "Again."], ["ai", 5000, "New."]]);
});

test("what the user said stands where it lies in the replay", () => {
  const chunks = [listen(0), listen(1), speak(2, "Yes.")];
  chunks[1].replay_ts_ms = 1500;
  chunks[2].replay_ts_ms = 3000;

  const said = sayings({ mode: "duplex", chunks, transcripts: [{ ts_ms: 1700, text: "is it" }, { ts_ms: 100, text: " " }] });

  assert.deepEqual(said.map(({ who, atMs }) => [who, atMs]), [["user", 1500], ["ai", 3000]]);
});

test("the times to answer are told by their middle and their end", () => {
  const chunks = Array.from({ length: 100 }, (_, index) => listen(index, index + 1));

  const told = latency({ mode: "duplex", chunks });

  assert.deepEqual([told.count, told.p50, told.p95, told.max], [100, 51, 96, 100]);
  assert.equal(latency({ mode: "duplex", chunks: [] }), null);
});

test("times are shown as people write them", () => {
  assert.deepEqual([0, 61_000, 3_725_900, -5].map(clock), ["0:00", "1:01", "1:02:05", "0:00"]);
});

test("names cannot leave their place in an address", () => {
  const session = new RecordedSession("a/../b");

  assert.equal(session.path, "/api/sessions/a%2F..%2Fb");
  assert.equal(session.asset("ai_audio/turn 0.wav"), "/api/sessions/a%2F..%2Fb/assets/ai_audio/turn%200.wav");
});

test("a recording is followed until its replay is there", async (context) => {
  const replies = [null, { mode: "duplex", chunks: [listen(0)] }, { mode: "duplex", chunks: [listen(0)], merged_replay: "x.wav" }];
  context.mock.method(globalThis, "setTimeout", (/** @type {() => void} */ run) => queueMicrotask(run));
  context.mock.method(globalThis, "fetch", async () => {
    const body = replies.length > 1 ? replies.shift() : replies[0];
    return { ok: body !== null, json: async () => body };
  });
  const shown = [];

  await new RecordedSession("a").follow((recording) => shown.push(recording && Boolean(recording.merged_replay)));

  assert.deepEqual(shown, [null, false, true]);
});
