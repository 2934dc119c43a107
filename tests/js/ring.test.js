import assert from "node:assert/strict";
import { test } from "node:test";
import { PlayerRing } from "../../webroot/lib/audio/ring.js";
import { DelayPolicy } from "../../webroot/lib/audio/player.js";

const pull = (ring, count) => {
  const out = new Float32Array(count).fill(9);
  ring.pull(out);
  return out;
};
const ramp = (count, from = 1) => Float32Array.from({ length: count }, (_, i) => from + i);

test("a turn starts after its delay, to the sample", () => {
  const ring = new PlayerRing(100, 4);
  ring.beginTurn(5);
  ring.push(ramp(10));

  assert.deepEqual([...pull(ring, 8)], [0, 0, 0, 0, 0, 1, 2, 3]);
  assert.equal(ring.stats().state, "playing");
});

test("the delay runs from the first sound, not from the beginning of the turn", () => {
  const ring = new PlayerRing(100, 4);
  ring.beginTurn(2);
  pull(ring, 8);
  ring.push(ramp(4));

  assert.deepEqual([...pull(ring, 4)], [0, 0, 1, 2]);
});

test("running dry within a turn counts one gap and its exact length", () => {
  const ring = new PlayerRing(100, 4);
  ring.beginTurn(0);
  ring.push(ramp(6));
  pull(ring, 8);
  pull(ring, 8);
  ring.push(ramp(4));
  const out = pull(ring, 4);

  assert.deepEqual([...out], [1, 2, 3, 4]);
  assert.equal(ring.stats().gaps, 1);
  assert.equal(ring.stats().gapSamples, 10);
});

test("the end of a turn is no gap and makes the ring idle", () => {
  const ring = new PlayerRing(100, 4);
  ring.beginTurn(0);
  ring.push(ramp(6));
  ring.endTurn();
  pull(ring, 8);

  assert.equal(ring.stats().state, "idle");
  assert.equal(ring.stats().gaps, 0);
});

test("ending a turn during its start delay plays it at once", () => {
  const ring = new PlayerRing(100, 4);
  ring.beginTurn(50);
  ring.push(ramp(3));
  ring.endTurn();

  assert.deepEqual([...pull(ring, 3)], [1, 2, 3]);
});

test("a cut fades within its length, then is silent, and forgets the rest", () => {
  const ring = new PlayerRing(100, 4);
  ring.beginTurn(0);
  ring.push(new Float32Array(50).fill(1));
  pull(ring, 10);
  ring.cut();
  const out = pull(ring, 60);

  assert.deepEqual([...out.slice(0, 4)], [1, 0.75, 0.5, 0.25]);
  assert.ok(out.slice(5).every((x, i) => Math.abs(x) <= 0.25 * 0.96 ** i));
  assert.deepEqual(
    [ring.stats().state, ring.stats().aheadSamples, ring.stats().position],
    ["idle", 0, 50],
  );
});

test("sound pushed after a cut belongs to the next turn", () => {
  const ring = new PlayerRing(100, 4);
  ring.beginTurn(0);
  ring.push(ramp(20));
  pull(ring, 4);
  ring.cut();
  pull(ring, 8);
  ring.beginTurn(0);
  ring.push(ramp(3, 70));

  assert.deepEqual([...pull(ring, 3)], [70, 71, 72]);
});

test("a full ring drops the newest sound, counts it, and keeps the position true", () => {
  const ring = new PlayerRing(8, 2);
  ring.beginTurn(0);
  ring.push(ramp(6));
  ring.push(ramp(6, 7));
  ring.endTurn();
  const out = pull(ring, 8);

  assert.deepEqual([...out], [1, 2, 3, 4, 5, 6, 7, 8]);
  assert.equal(ring.stats().droppedSamples, 4);
  assert.equal(ring.stats().position, 12);
});

test("hold is silent and loses nothing", () => {
  const ring = new PlayerRing(100, 4);
  ring.beginTurn(0);
  ring.push(ramp(8));
  pull(ring, 2);
  ring.hold(true);
  pull(ring, 300);
  ring.hold(false);

  assert.deepEqual([...pull(ring, 2)], [3, 4]);
  assert.equal(ring.stats().gaps, 0);
});

test("sound wraps around the end of the buffer unharmed", () => {
  const ring = new PlayerRing(10, 2);
  ring.beginTurn(0);
  const heard = [];
  for (let from = 1; from < 60; from += 6) {
    ring.push(ramp(6, from));
    heard.push(...pull(ring, 6));
  }

  assert.deepEqual(heard, [...ramp(60)]);
});

test("the start delay grows by the gap and shrinks slowly after clean turns", () => {
  const policy = new DelayPolicy(200);
  policy.afterTurn(150);
  const grown = policy.delayMs;
  policy.afterTurn(0);

  assert.equal(grown, 350);
  assert.equal(policy.delayMs, 315);
});

test("the start delay stays between its floor and its ceiling", () => {
  const policy = new DelayPolicy(200);
  for (let i = 0; i < 100; i += 1) policy.afterTurn(0);
  const low = policy.delayMs;
  policy.afterTurn(60000);

  assert.equal(low, 40);
  assert.equal(policy.delayMs, 1500);
});

test("a turn that begins within the fade of the cut one is heard from its first sample", () => {
  const ring = new PlayerRing(100, 20);
  ring.beginTurn(0);
  ring.push(ramp(30));
  pull(ring, 4);
  ring.cut();
  pull(ring, 4);
  ring.beginTurn(0);
  ring.push(ramp(8, 101));

  assert.deepEqual([...pull(ring, 4)], [101, 102, 103, 104]);
  assert.equal(ring.stats().state, "playing");
  assert.equal(ring.stats().aheadSamples, 4);
});
