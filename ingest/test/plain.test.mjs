// Plain events, as scripts and pages of other sites post them: with nothing but fetch and
// sendBeacon.

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { gzipSync } from "node:zlib";
import { startSite } from "./browser.mjs";
import { EVENT_TIME, WINDOW_END, awaited, startQuipu } from "./harness.mjs";

const PATH = "/api/v1/events";

let quipu, site, context;

before(async () => {
  quipu = await startQuipu();
  site = await startSite();
});

after(async () => {
  await site?.stop();
  await quipu?.stop();
});

afterEach(() => context?.close());

// visit opens a page of another site; what its console complains of is in complaints.
async function visit() {
  context = await site.browser.newContext();
  const page = await context.newPage();
  const complaints = [];
  page.on("console", (m) => m.type() === "error" && complaints.push(m.text()));
  await page.goto(site.url);
  return { page, complaints };
}

const view = (i, page = "/pricing") => ({ event: "view", user_id: `u${i}`, event_id: `v-${i}`, timestamp: EVENT_TIME + i, further_data: { page, duration_ms: 10 + i } });

const VIEWS = [0, 1, 2].map((i) => view(i));

const increase = (range = "1h") => `increase(events_total[${range}] anchored)`;

async function expectViews(n) {
  assert.deepEqual(await quipu.query(`sum by (event, page) (${increase()})`), { "view /pricing": n });
  assert.deepEqual(await quipu.query("count_distinct(event_users[1h])"), { "": n });
  assert.deepEqual(await quipu.query(`sum(${increase("15s")})`, WINDOW_END), { "": n });
}

const lines = (events) => events.map((event) => JSON.stringify(event)).join("\n");

for (const [what, body, headers] of [
  ["an array", JSON.stringify(VIEWS), {}],
  ["lines", lines(VIEWS), {}],
  ["lines that say so", lines(VIEWS), { "Content-Type": "application/x-ndjson" }],
  ["gzipped lines with the outer data", gzipSync(lines(VIEWS.map((data) => ({ data })))), { "Content-Encoding": "gzip" }],
]) {
  test(`${what}: events are counted, and with an Idempotency-Key once`, async () => {
    quipu.begin(what.replaceAll(" ", "-"));
    quipu.faults.push("lost");
    const post = () => fetch(quipu.url + PATH, { method: "POST", headers: { "Idempotency-Key": "batch-1", ...headers }, body });
    const verdicts = await quipu.moved(6, async () => {
      await assert.rejects(post());
      const response = await post();
      assert.equal(response.status, 200);
      assert.deepEqual(await response.json(), { accepted: 0, duplicate: 3, filtered: 0, rejected: 0, errors: [] });
    });
    assert.deepEqual(verdicts, { accepted: 3, duplicate: 3 });
    await expectViews(3);
  });
}

test("of lines the bad ones are rejected, and all bad ones are a 400", async () => {
  quipu.begin("bad");
  const post = async (body) => {
    const response = await fetch(quipu.url + PATH, { method: "POST", body });
    return [response.status, (await response.json()).errors.map((e) => e.index)];
  };
  const verdicts = await quipu.moved(5, async () => {
    assert.deepEqual(await post(`${lines(VIEWS)}\nnonsense`), [200, [3]]);
    assert.deepEqual(await post('{"event": 1}'), [400, [0]]);
  });
  assert.deepEqual(verdicts, { accepted: 3, rejected: 2 });
});

test("beacons of a page of another site are counted, of text and of JSON", async () => {
  quipu.begin("beacons");
  const { page, complaints } = await visit();
  const verdicts = await quipu.moved(2, async () => {
    const queued = await page.evaluate(([url, text, json]) => [
      navigator.sendBeacon(url, JSON.stringify(text)),
      navigator.sendBeacon(url, new Blob([JSON.stringify(json)], { type: "application/json" })),
    ], [quipu.url + PATH, view(0), view(1)]);
    assert.deepEqual(queued, [true, true]);
    await awaited(() => quipu.verdicts(), (v) => v.accepted === 2);
  });
  assert.deepEqual(verdicts, { accepted: 2 });
  await expectViews(2);
  const types = quipu.requests.map((r) => r.headers["content-type"]).sort();
  assert.deepEqual(types, ["application/json", "text/plain;charset=UTF-8"]);
  assert.deepEqual(complaints, []);
});

test("a beacon as a page is closed is counted", async () => {
  quipu.begin("closed");
  const { page } = await visit();
  await page.evaluate(([url, event]) => addEventListener("pagehide", () => navigator.sendBeacon(url, JSON.stringify(event))), [quipu.url + PATH, view(0)]);
  await page.close({ runBeforeUnload: true });
  await awaited(() => quipu.verdicts(), (v) => v.accepted === 1);
  await expectViews(1);
});

test("a page of another site may send what headers it likes, and reads the answer", async () => {
  quipu.begin("headers");
  const { page, complaints } = await visit();
  const post = (events) => page.evaluate(async ([url, events]) => {
    const stream = new Blob([JSON.stringify(events)]).stream().pipeThrough(new CompressionStream("gzip"));
    const response = await fetch(url, {
      method: "POST",
      credentials: "include",
      headers: { "Content-Type": "application/json", "Content-Encoding": "gzip", "Idempotency-Key": "page-1", "X-Any": "thing" },
      body: await new Response(stream).blob(),
    });
    return [response.status, await response.json()];
  }, [quipu.url + PATH, events]);
  const verdicts = await quipu.moved(6, async () => {
    assert.deepEqual(await post(VIEWS), [200, { accepted: 3, duplicate: 0, filtered: 0, rejected: 0, errors: [] }]);
    assert.deepEqual(await post(VIEWS), [200, { accepted: 0, duplicate: 3, filtered: 0, rejected: 0, errors: [] }]);
  });
  assert.deepEqual(verdicts, { accepted: 3, duplicate: 3 });
  await expectViews(3);
  assert.deepEqual(complaints, []);
});

test("a page of another site reads why its events were rejected", async () => {
  quipu.begin("reasons");
  const { page } = await visit();
  const answer = await page.evaluate(async (url) => {
    const response = await fetch(url, { method: "POST", body: '{"event": 1}' });
    return [response.status, (await response.json()).errors[0].reason];
  }, quipu.url + PATH);
  assert.deepEqual(answer, [400, "event is 1, not a string"]);
});
