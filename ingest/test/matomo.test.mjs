// Matomo's tracking API, by its library for servers, which sends one request in the query
// of a GET and several in bulk, and sends nothing again.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import MatomoTracker from "matomo-tracker";
import { EVENT_TIME, WINDOW_END, awaited, startQuipu } from "./harness.mjs";

let quipu;

before(async () => (quipu = await startQuipu()));

after(() => quipu?.stop());

function tracker() {
  const errors = [];
  const t = new MatomoTracker(7, `${quipu.url}/matomo.php`);
  t.on("error", (error) => errors.push(error));
  return { errors, track: (request) => t.track(request), bulk: (requests) => new Promise((resume) => t.trackBulk(requests, (text) => resume(JSON.parse(text)))) };
}

const at = (i) => ({ cdt: (EVENT_TIME + 1000 * i) / 1000, uid: "u1" });

const VIEW = { url: "https://shop.example/pricing?utm_source=mail", action_name: "Pricing", urlref: "https://search.example/?q=shop" };

const increase = (range = "1h") => `increase(events_total[${range}] anchored)`;

test("requests are counted, with their labels, users, numbers and times", async () => {
  quipu.begin("bulk");
  const t = tracker();
  const verdicts = await quipu.moved(6, async () => {
    assert.deepEqual(await t.bulk([
      { ...at(0), ...VIEW },
      { ...at(1), url: "https://shop.example/", e_c: "video", e_a: "play", e_v: 9.5 },
      { ...at(2), url: "https://shop.example/", search: "shoes" },
      { ...at(3), url: "https://shop.example/", idgoal: 0, ec_id: "o1", revenue: 20, ec_items: JSON.stringify([["a", "A", [], 10, 2]]) },
      { ...at(4), url: "https://shop.example/", download: "https://shop.example/a.pdf", uid: "u2" },
      { url: "https://shop.example/", rec: 1, cdt: -1 },
    ]), { status: "success", tracked: 5, invalid: 1, invalid_indices: [5], errors: [{ index: 5, reason: 'cdt is "-1", more than 24h0m0s ago: that takes a token_auth' }] });
  });
  assert.deepEqual(verdicts, { accepted: 5, rejected: 1 });
  assert.deepEqual(await quipu.query(`sum by (event, page, referrer, utm_source) (${increase()})`), {
    "pageview /pricing search.example mail": 1, "play /": 1, "search /": 1, "order /": 1, "download /": 1,
  });
  assert.deepEqual(await quipu.query("sum by (field) (histogram_sum(increase(event_value[1h] anchored)))"), { value: 9.5, amount: 20, items: 1, items_quantity: 2 });
  assert.deepEqual(await quipu.query("count_distinct(event_users[1h])"), { "": 2 });
  assert.deepEqual(await quipu.query(`sum(${increase("15s")})`, WINDOW_END), { "": 5 });
  assert.deepEqual(t.errors, []);
});

test("a request in a query is counted, with a picture or without", async () => {
  quipu.begin("query");
  const t = tracker();
  const verdicts = await quipu.moved(2, async () => {
    for (const [n, more] of [[1, {}], [2, { send_image: 0 }]]) {
      t.track({ ...VIEW, ...at(0), ...more });
      await awaited(() => quipu.statuses(), (statuses) => statuses.length === n && statuses[n - 1] !== 0);
    }
  });
  assert.deepEqual(verdicts, { accepted: 2 });
  assert.deepEqual(quipu.statuses(), [200, 204]);
  assert.deepEqual(t.errors, []);
  assert.deepEqual(await quipu.query(`sum by (event, page) (${increase()})`), { "pageview /pricing": 2 });
});

test("a bulk of which nothing is right is an error", async () => {
  quipu.begin("bad");
  const t = tracker();
  const verdicts = await quipu.moved(1, async () => assert.equal((await t.bulk([{ url: "x", cdt: -1, token_auth: "t" }])).status, "error"));
  assert.deepEqual(verdicts, { rejected: 1 });
  assert.deepEqual(t.errors, [400]);
});
