// Mixpanel's ingestion API, by its library for servers, which sends one event in the query
// of a GET and several in a form, and sends nothing again.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import Mixpanel from "mixpanel";
import { EVENT_TIME, WINDOW_END, startQuipu } from "./harness.mjs";

let quipu;

before(async () => (quipu = await startQuipu()));

after(() => quipu?.stop());

const SILENT = { error() {}, warn() {}, info() {}, debug() {}, trace() {} };

const client = (options) => {
  const { hostname, port } = new URL(quipu.url);
  return Mixpanel.init("token", { protocol: "http", host: hostname, port, keepAlive: false, key: "key", logger: SILENT, ...options });
};

// told is what the library tells of a call: null or undefined for success.
const told = (call) => new Promise((resume) => call(resume));

const properties = (i, more) => ({ distinct_id: "u1", $insert_id: `i${i}`, time: new Date(EVENT_TIME + i), ...more });

const increase = (range = "1h") => `increase(events_total[${range}] anchored)`;

async function sendAll(c) {
  for (const call of [
    (resume) => c.track("order", properties(0, { plan: "pro", amount: 9.5 }), resume),
    (resume) => c.track_batch([{ event: "order", properties: properties(1, { plan: "pro", amount: 20, distinct_id: "u2" }) }, { event: "view", properties: properties(2, { $current_url: "https://shop.example/pricing?utm_source=mail", $browser: "Firefox" }) }], resume),
    (resume) => c.import("imported", new Date(EVENT_TIME), properties(3), resume),
    (resume) => c.import_batch([{ event: "imported", properties: properties(4) }], resume),
  ]) assert.equal(await told(call) ?? null, null);
}

for (const verbose of [false, true]) {
  test(`${verbose ? "verbose" : "terse"}: events are counted, with their labels, users and times, and by $insert_id once`, async () => {
    quipu.begin(`verbose-${verbose}`);
    const c = client({ verbose });
    assert.deepEqual(await quipu.moved(10, async () => {
      await sendAll(c);
      await sendAll(c);
    }), { accepted: 5, duplicate: 5 });
    assert.deepEqual(await quipu.query(`sum by (event, plan, page, browser, utm_source) (${increase()})`), { "order pro": 2, "Firefox view /pricing mail": 1, imported: 2 });
    assert.deepEqual(await quipu.query("sum by (field) (histogram_sum(increase(event_value[1h] anchored)))"), { amount: 29.5 });
    assert.deepEqual(await quipu.query("count_distinct(event_users[1h])"), { "": 2 });
    assert.deepEqual(await quipu.query(`sum(${increase("15s")})`, WINDOW_END), { "": 5 });
  });

  test(`${verbose ? "verbose" : "terse"}: what is wrong is told, and in a batch not at the cost of the others`, async () => {
    quipu.begin(`bad-${verbose}`);
    const c = client({ verbose });
    const verdicts = await quipu.moved(3, async () => {
      assert.match(String(await told((resume) => c.track("", {}, resume))), verbose ? /event is ""/ : /Mixpanel Server Error: 0/);
      await told((resume) => c.track_batch([{ event: "a", properties: {} }, { event: "b", properties: { time: new Date(-1) } }], resume));
    });
    assert.deepEqual(verdicts, { accepted: 1, rejected: 2 });
    assert.deepEqual(quipu.statuses(), [400, 200]);
  });
}

test("updates of profiles are taken and count nothing", async () => {
  quipu.begin("profiles");
  const c = client();
  const verdicts = await quipu.moved(3, async () => {
    for (const call of [
      (resume) => c.people.set("u1", { plan: "pro" }, resume),
      (resume) => c.people.increment("u1", "visits", resume),
      (resume) => c.groups.set("company", "c1", { plan: "pro" }, resume),
    ]) assert.equal(await told(call) ?? null, null);
  });
  assert.deepEqual(verdicts, { filtered: 3 });
});
