// CloudEvents by their SDK for JavaScript, in the three modes of their HTTP binding. Its
// transport resolves with the answer's body whatever the status is, and sends nothing
// again. cmd/quipu has the same by the SDK for Go.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { CloudEvent, Mode, emitterFor, httpTransport } from "cloudevents";
import { EVENT_TIME, WINDOW_END, startQuipu } from "./harness.mjs";

let quipu;

before(async () => (quipu = await startQuipu()));

after(() => quipu?.stop());

const emitter = (mode) => emitterFor(httpTransport(`${quipu.url}/api/v1/events`), { mode });

async function each(emit, events) {
  const answers = [];
  for (const event of events) answers.push(JSON.parse((await emit(event)).body));
  return answers;
}

// MODES send events and return the answers. The SDK has no batches: one is an array of
// what it makes of each event.
const MODES = {
  binary: (events) => each(emitter(Mode.BINARY), events),
  structured: (events) => each(emitter(Mode.STRUCTURED), events),
  batch: async (events) => {
    const message = { headers: { "content-type": "application/cloudevents-batch+json" }, body: JSON.stringify(events) };
    return [JSON.parse((await httpTransport(`${quipu.url}/api/v1/events`)(message)).body)];
  },
};

const event = (i, attributes) =>
  new CloudEvent({ id: `e-${i}`, source: "/shop", type: "com.example.order", time: new Date(EVENT_TIME + i).toISOString(), ...attributes });

// EVENTS are four orders and a visit, whose data is nested as a plain event's.
const EVENTS = () => [
  event(0, { data: { plan: "pro", user_id: "u1", amount: 9.5 } }),
  event(1, { data: { plan: "pro", user_id: "u2", amount: 20 }, traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" }),
  event(2, { data: Buffer.from('{"plan": "team", "user_id": "u1"}'), datacontenttype: "application/json" }),
  event(3, { data: "plan=free", datacontenttype: "text/plain" }),
  event(4, { type: "visit", source: "/shop/a%20b", data: { user_id: "u3", further_data: { page: "/pricing", duration_ms: 12.5 } } }),
];

const counted = (answers) => {
  const sum = { accepted: 0, duplicate: 0, filtered: 0, rejected: 0 };
  for (const answer of answers) for (const verdict of Object.keys(sum)) sum[verdict] += answer[verdict];
  return sum;
};

const increase = (range = "1h") => `increase(events_total[${range}] anchored)`;

async function expectEvents() {
  assert.deepEqual(await quipu.query(`sum by (event, plan, page) (${increase()})`), {
    "com.example.order pro": 2,
    "com.example.order team": 1,
    "com.example.order": 1,
    "visit /pricing": 1,
  });
  assert.deepEqual(await quipu.query('count_distinct(event_users[1h], "event")'), { "com.example.order": 2, visit: 1 });
  assert.deepEqual(await quipu.query("sum by (field) (histogram_sum(increase(event_value[1h] anchored)))"), { amount: 29.5, duration_ms: 12.5 });
  assert.deepEqual(await quipu.query(`sum(${increase("15s")})`, WINDOW_END), { "": 5 });
  assert.deepEqual(await quipu.query(`sum(${increase()})`, WINDOW_END - 15_000), { "": 0 });
}

for (const [mode, send] of Object.entries(MODES)) {
  // In a header the binding wants a % encoded once more, which the SDK does not do.
  const events = mode === "binary" ? EVENTS().map((e) => e.cloneWith({ source: "/shop" })) : EVENTS();

  test(`${mode}: events are counted, with their labels, users and times`, async () => {
    quipu.begin(mode);
    const verdicts = await quipu.moved(5, async () => {
      assert.deepEqual(counted(await send(events)), { accepted: 5, duplicate: 0, filtered: 0, rejected: 0 });
    });
    assert.deepEqual(verdicts, { accepted: 5 });
    await expectEvents();
  });

  for (const [other, sendAgain] of Object.entries(MODES)) {
    test(`${mode}, then ${other}: the same source and id count nothing more`, async () => {
      quipu.begin(mode);
      const same = other === "binary" ? events.filter((e) => e.source === "/shop") : events;
      const verdicts = await quipu.moved(same.length, async () => {
        assert.deepEqual(counted(await sendAgain(same)), { accepted: 0, duplicate: same.length, filtered: 0, rejected: 0 });
      });
      assert.deepEqual(verdicts, { duplicate: same.length });
      await expectEvents();
    });
  }
}

test("the same id of another source is another event", async () => {
  quipu.begin("sources");
  const verdicts = await quipu.moved(2, () => MODES.structured([event(0, { source: "/a" }), event(0, { source: "/b" })]));
  assert.deepEqual(verdicts, { accepted: 2 });
});

test("what is no CloudEvent is answered with 400 and the reason, which the SDK hands on", async () => {
  quipu.begin("bad");
  const bad = new CloudEvent({ id: "e", source: "/shop", type: "order", specversion: "0.3", data: {} }, false);
  for (const [mode, send] of Object.entries(MODES)) {
    const verdicts = await quipu.moved(1, async () => {
      const [answer] = await send([bad]);
      assert.match(answer.errors[0].reason, /specversion is "0.3"/, mode);
    });
    assert.deepEqual(verdicts, { rejected: 1 });
  }
  assert.deepEqual(quipu.statuses(), [400, 400, 400]);
});

test("an event whose answer was lost can be sent again", async () => {
  quipu.begin("lost");
  quipu.faults.push("lost");
  const events = [event(0, { data: {} })];
  const verdicts = await quipu.moved(2, async () => {
    await assert.rejects(MODES.binary(events), /socket hang up|ECONNRESET/);
    assert.equal(counted(await MODES.binary(events)).duplicate, 1);
  });
  assert.deepEqual(verdicts, { accepted: 1, duplicate: 1 });
});
