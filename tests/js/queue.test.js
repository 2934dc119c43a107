import assert from "node:assert/strict";
import { test } from "node:test";
import { QueueCountdown } from "../../webroot/lib/queue.js";
import { FakeClock } from "./fakes.js";

function waiting(position, estimate) {
  const clock = new FakeClock();
  const countdown = new QueueCountdown(clock.now);
  countdown.update({ position, estimated_wait_s: estimate, queue_length: 5 });
  return { clock, countdown };
}

test("the countdown ticks down from the first estimate", () => {
  const { clock, countdown } = waiting(2, 30);
  clock.advance(4000);

  assert.equal(countdown.read().remainingS, 26);
  assert.equal(countdown.read().waitedS, 4);
});

test("a repeated estimate does not push the countdown up", () => {
  const { clock, countdown } = waiting(2, 30);
  clock.advance(6000);
  countdown.update({ position: 2, estimated_wait_s: 30, queue_length: 5 });

  assert.equal(countdown.read().remainingS, 24);
});

test("a shorter estimate is taken", () => {
  const { clock, countdown } = waiting(2, 30);
  clock.advance(6000);
  countdown.update({ position: 2, estimated_wait_s: 10, queue_length: 5 });

  assert.equal(countdown.read().remainingS, 10);
});

test("a changed position takes the new estimate even when it is longer", () => {
  const { clock, countdown } = waiting(3, 10);
  clock.advance(5000);
  countdown.update({ position: 2, estimated_wait_s: 45, queue_length: 4 });

  assert.equal(countdown.read().remainingS, 45);
  assert.equal(countdown.read().position, 2);
});

test("past the estimate it shows overtime and ignores a late estimate", () => {
  const { clock, countdown } = waiting(1, 5);
  clock.advance(8000);
  countdown.update({ position: 1, estimated_wait_s: 15, queue_length: 1 });

  assert.equal(countdown.read().remainingS, 0);
  assert.equal(countdown.read().overtimeS, 3);
  assert.equal(countdown.read().progress, 1);
});

test("progress runs from 0 to 1 over the whole wait", () => {
  const { clock, countdown } = waiting(1, 20);
  clock.advance(5000);

  assert.equal(countdown.read().progress, 0.25);
});

test("a wait that nobody can estimate has no progress and no overtime to show", () => {
  const { clock, countdown } = waiting(1, 0);
  clock.advance(5000);
  const unknown = countdown.read();
  countdown.update({ position: 1, estimated_wait_s: 0, queue_length: 1 });
  const still = countdown.read();

  assert.deepEqual([unknown.isEstimated, unknown.progress, unknown.waitedS], [false, 0, 5]);
  assert.equal(still.isEstimated, false);
});
