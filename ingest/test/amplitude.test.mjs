// Amplitude's HTTP V2 and batch APIs, by its library for servers.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Identify, Revenue, Types, createInstance } from "@amplitude/analytics-node";
import { EVENT_TIME, WINDOW_END, startQuipu } from "./harness.mjs";

let quipu;

before(async () => (quipu = await startQuipu()));

after(() => quipu?.stop());

// send sends what calls does with a client, in one batch, and returns the code that the
// library tells of each.
async function send(calls, path = "/2/httpapi") {
  const client = createInstance();
  await client.init("key", { serverUrl: quipu.url + path, logLevel: Types.LogLevel.None, flushQueueSize: 100, flushIntervalMillis: 50 }).promise;
  const sent = calls(client);
  const told = await Promise.all(sent.map((call) => call.promise));
  return told.map((result) => result.code);
}

const at = (i, more) => ({ user_id: "user1", time: EVENT_TIME + i, insert_id: `i${i}`, ...more });

const everyKind = (client) => [
  client.track("order", { plan: "pro", amount: 9.5 }, at(0)),
  client.track("order", { plan: "pro", amount: 20 }, at(1, { user_id: "user2" })),
  client.identify(new Identify().set("plan", "team"), at(2)),
  client.revenue(new Revenue().setProductId("p1").setPrice(10).setQuantity(2), at(3, { os_name: "Linux", country: "DE" })),
];

const increase = (range = "1h") => `increase(events_total[${range}] anchored)`;

async function expectEveryKind() {
  assert.deepEqual(await quipu.query(`sum by (event, plan, os, country) (${increase()})`), { "order pro": 2, "$identify team": 1, "DE revenue_amount Linux": 1 });
  assert.deepEqual(await quipu.query('sum by (field) (histogram_sum(increase(event_value{field!="event_id"}[1h] anchored)))'), { amount: 29.5, price: 10, quantity: 2 });
  assert.deepEqual(await quipu.query("count_distinct(event_users[1h])"), { "": 2 });
  assert.deepEqual(await quipu.query(`sum(${increase("15s")})`, WINDOW_END), { "": 4 });
}

for (const path of ["/2/httpapi", "/batch"]) {
  test(`${path}: events are counted, with their labels, users and times, and by insert_id once`, async () => {
    quipu.begin(path.replaceAll("/", ""));
    const verdicts = await quipu.moved(8, async () => {
      assert.deepEqual(await send(everyKind, path), [200, 200, 200, 200]);
      assert.deepEqual(await send(everyKind, path), [200, 200, 200, 200]);
    });
    assert.deepEqual(verdicts, { accepted: 4, duplicate: 4 });
    await expectEveryKind();
  });
}

test("of a batch with a bad event the others are counted", async () => {
  quipu.begin("mixed");
  const calls = (client) => [client.track("mixed", {}, at(0, { time: -1 })), client.track("mixed", {}, at(1))];
  const verdicts = await quipu.moved(2, async () => assert.deepEqual(await send(calls), [200, 200]));
  assert.deepEqual(verdicts, { accepted: 1, rejected: 1 });
  assert.deepEqual(quipu.statuses(), [200]);
});

test("a batch of which nothing is right is not sent again", async () => {
  quipu.begin("bad");
  const verdicts = await quipu.moved(1, async () => assert.deepEqual(await send((client) => [client.track("old", {}, at(0, { time: -1 }))]), [400]));
  assert.deepEqual(verdicts, { rejected: 1 });
  assert.deepEqual(quipu.statuses(), [400]);
});

test("after a 503 the batch is sent again and counts once", async () => {
  quipu.begin("retried");
  quipu.faults.push({ status: 503, headers: {} });
  assert.deepEqual(await quipu.moved(1, async () => assert.deepEqual(await send((client) => [client.track("retried", {}, at(0))]), [200])), { accepted: 1 });
  assert.deepEqual(quipu.statuses(), [503, 200]);
  assert.deepEqual(await quipu.query(`sum by (event) (${increase()})`), { retried: 1 });
});

test("an event whose answer was lost, which the library gives up, can be sent again", async () => {
  quipu.begin("lost");
  quipu.faults.push("lost");
  const track = (client) => [client.track("lost", {}, at(0))];
  const verdicts = await quipu.moved(2, async () => {
    assert.deepEqual(await send(track), [0]);
    assert.deepEqual(await send(track), [200]);
  });
  assert.deepEqual(verdicts, { accepted: 1, duplicate: 1 });
});
