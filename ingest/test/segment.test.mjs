// Segment's HTTP API, by Segment's and RudderStack's libraries for servers.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Analytics } from "@segment/analytics-node";
import RudderAnalytics from "@rudderstack/rudder-sdk-node";
import { EVENT_TIME, WINDOW_END, startQuipu } from "./harness.mjs";

let quipu;

before(async () => (quipu = await startQuipu()));

after(() => quipu?.stop());

// Both send [kind, message] pairs in one batch, and return what the library told the
// callback of each: undefined or null for success.
async function segment(messages) {
  const client = new Analytics({ writeKey: "key", host: quipu.url, flushAt: 100 });
  client.on("error", () => {}); // the callbacks are told too
  const told = messages.map(([kind, message]) => new Promise((resume) => client[kind](message, resume)));
  await client.closeAndFlush();
  return Promise.all(told);
}

async function rudder(messages) {
  const client = new RudderAnalytics("key", { dataPlaneUrl: quipu.url, flushAt: 100, errorHandler: () => {} });
  client.logger.error = () => {}; // the callbacks are told too
  client.flushed = true; // else it sends the first message alone
  const told = messages.map(([kind, message]) => new Promise((resume) => client[kind](message, resume)));
  await client.flush();
  return Promise.all(told);
}

// at gives a message a time in the words of both libraries.
const at = (ms, message) => ({ timestamp: new Date(ms), originalTimestamp: new Date(ms), ...message });

const PAGE = { path: "/pricing", url: "https://shop.example/pricing?plan=pro", referrer: "https://search.example/?q=shop" };
const CONTEXT = { page: PAGE, campaign: { name: "spring", source: "mail", medium: "email" } };

// EVERY_KIND is a message of every kind, and three that are tracks.
const EVERY_KIND = [
  ["track", { event: "Signed Up", userId: "u1", properties: { plan: "pro", amount: 9.5 }, context: CONTEXT }],
  ["track", { event: "Signed Up", userId: "u1", properties: { plan: "pro", amount: 20 }, context: CONTEXT }],
  ["track", { event: "Signed Up", anonymousId: "a1", properties: { plan: "free" } }],
  ["page", { userId: "u1", name: "Pricing", properties: PAGE }],
  ["screen", { userId: "u2", name: "Home", properties: { path: "/home" } }],
  ["identify", { userId: "u2", traits: { plan: "free", country: "DE" } }],
  ["group", { userId: "u2", groupId: "g1", traits: { plan: "team" } }],
  ["alias", { userId: "u3", previousId: "a1" }],
].map(([kind, message], i) => [kind, at(EVENT_TIME + i, { messageId: `message-${i}`, ...message })]);

const increase = (selector = "", range = "1h") => `increase(events_total${selector}[${range}] anchored)`;

// expectEveryKind checks what is counted of EVERY_KIND sent once.
async function expectEveryKind() {
  const counts = { "Signed Up": 3, page: 1, screen: 1, identify: 1, group: 1, alias: 1 };
  assert.deepEqual(await quipu.query(`sum by (event) (${increase()})`), counts);
  assert.deepEqual(await quipu.query(`sum by (page, plan, referrer, utm_source, utm_medium, utm_campaign) (${increase('{event="Signed Up"}')})`), {
    "/pricing pro search.example spring email mail": 2,
    free: 1,
  });
  assert.deepEqual(await quipu.query(`sum by (event, page, referrer) (${increase('{event=~"page|screen"}')})`), {
    "page /pricing search.example": 1,
    "screen /home": 1,
  });
  assert.deepEqual(await quipu.query(`sum by (event, plan, country) (${increase('{event=~"identify|group"}')})`), {
    "DE identify free": 1,
    "group team": 1,
  });
  assert.deepEqual(await quipu.query('sum(histogram_sum(increase(event_value{field="amount"}[1h] anchored)))'), { "": 29.5 });
  assert.deepEqual(await quipu.query('count_distinct(event_users[1h], "event")'), { "Signed Up": 2, page: 1, screen: 1, identify: 1, group: 1, alias: 1 });
  assert.deepEqual(await quipu.query("count_distinct(event_users[1h])"), { "": 4 });
  // In the window of their own time and in no other.
  assert.deepEqual(await quipu.query(`sum by (event) (${increase("", "15s")})`, WINDOW_END), counts);
  assert.deepEqual(await quipu.query(`sum(${increase()})`, WINDOW_END - 15_000), { "": 0 });
}

async function expectSuccess(told, messages) {
  assert.equal(told.length, messages.length);
  for (const error of told) assert.ok(error == null, String(error));
}

for (const [name, send] of [["Segment", segment], ["RudderStack", rudder]]) {
  test(`${name}: messages of every kind are counted, with their labels, users and times`, async () => {
    quipu.begin(name);
    const n = EVERY_KIND.length;
    assert.deepEqual(await quipu.moved(n, async () => expectSuccess(await send(EVERY_KIND), EVERY_KIND)), { accepted: n });
    await expectEveryKind();
  });

  test(`${name}: the same messageIds count nothing more`, async () => {
    quipu.begin(name);
    const n = EVERY_KIND.length;
    assert.deepEqual(await quipu.moved(n, async () => expectSuccess(await send(EVERY_KIND), EVERY_KIND)), { duplicate: n });
    await expectEveryKind();
  });

  test(`${name}: a batch of which nothing is right is not sent again`, async () => {
    quipu.begin(`${name}-bad`);
    const messages = [["track", at(-1, { event: "before 1970", userId: "u" })]];
    const verdicts = await quipu.moved(1, async () => {
      const [error] = await send(messages);
      assert.match(String(error), /400|Bad Request/);
    });
    assert.deepEqual(verdicts, { rejected: 1 });
    assert.deepEqual(quipu.statuses(), [400]);
  });

  test(`${name}: of a batch with a bad message the others are counted`, async () => {
    quipu.begin(`${name}-mixed`);
    const messages = [-1, EVENT_TIME].map((ms) => ["track", at(ms, { event: "mixed", userId: "u" })]);
    const verdicts = await quipu.moved(2, async () => expectSuccess(await send(messages), messages));
    assert.deepEqual(verdicts, { accepted: 1, rejected: 1 });
    assert.deepEqual(quipu.statuses(), [200]);
  });

  for (const [what, fault, statuses] of [
    ["a 503", { status: 503, headers: { "Retry-After": "1" } }, [503, 200]],
    ["a 429", { status: 429, headers: { "Retry-After": "1" } }, [429, 200]],
    ["a lost answer", "lost", [200, 200]],
  ]) {
    test(`${name}: after ${what} the batch is sent again and counts once`, async () => {
      quipu.begin(`${name}-${what.replaceAll(" ", "-")}`);
      quipu.faults.push(fault);
      const messages = ["u1", "u2"].map((userId) => ["track", at(EVENT_TIME, { event: "retried", userId })]);
      const lost = fault === "lost";
      const verdicts = await quipu.moved(lost ? 4 : 2, async () => expectSuccess(await send(messages), messages));
      assert.deepEqual(verdicts, lost ? { accepted: 2, duplicate: 2 } : { accepted: 2 });
      assert.deepEqual(quipu.statuses(), statuses);
      assert.deepEqual(await quipu.query(`sum by (event) (${increase()})`), { retried: 2 });
    });
  }
}

test("each kind has a path of its own, for one message in text or JSON", async () => {
  quipu.begin("paths");
  const kinds = ["track", "page", "screen", "identify", "group", "alias"];
  const paths = [...kinds, ...kinds.map((kind) => kind[0])]; // browsers' libraries use the short ones
  for (const path of paths) {
    const message = { userId: "u", messageId: path, writeKey: "key", timestamp: new Date(EVENT_TIME), sentAt: new Date() };
    if (path[0] === "t") message.event = "tracked";
    const type = path.length > 1 ? "application/json" : "text/plain";
    const response = await fetch(`${quipu.url}/v1/${path}`, { method: "POST", headers: { "Content-Type": type }, body: JSON.stringify(message) });
    const answer = await response.json();
    assert.deepEqual([response.status, answer.success, answer.accepted], [200, true, 1], path);
  }
  assert.deepEqual(await quipu.query(`sum by (event) (${increase()})`), { tracked: 2, page: 2, screen: 2, identify: 2, group: 2, alias: 2 });
});
