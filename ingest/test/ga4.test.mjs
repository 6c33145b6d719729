// Google Analytics 4: its Measurement Protocol by a library for servers, and what its tag
// sends by one for pages. Neither sends anything again.

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import Analytics4 from "electron-google-analytics4";
import { startSite } from "./browser.mjs";
import { EVENT_TIME, WINDOW_END, awaited, startQuipu } from "./harness.mjs";

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

function client(user) {
  const analytics = new Analytics4("G-1", "secret", user, "session");
  analytics.baseURL = `${quipu.url}/mp`;
  return analytics;
}

const now = (expr) => quipu.query(expr, Date.now());
const increase = (range = "1h") => `increase(events_total[${range}] anchored)`;

const ITEMS = [{ item_id: "a", quantity: 2 }, { item_id: "b" }];

test("Measurement Protocol: events are counted, with their labels, users and numbers", async () => {
  quipu.begin("protocol");
  const verdicts = await quipu.moved(3, async () => {
    const buyer = client("c1").setUserProperties({ plan: { value: "pro" } });
    buyer.setParams({ page_location: "https://shop.example/buy?utm_source=mail", page_referrer: "https://search.example/", value: 9.5, items: ITEMS });
    assert.equal((await buyer.event("purchase")).status, 204);
    assert.equal((await buyer.event("purchase")).status, 204);
    assert.equal((await client("c2").event("page_view")).status, 204);
  });
  assert.deepEqual(verdicts, { accepted: 3 });
  assert.deepEqual(await now(`sum by (event, page, plan, referrer, utm_source) (${increase()})`), { "purchase /buy pro search.example mail": 2, page_view: 1 });
  assert.deepEqual(await now("sum by (field) (histogram_sum(increase(event_value[1h] anchored)))"), { value: 19, items: 4, items_quantity: 6 });
  assert.deepEqual(await now("count_distinct(event_users[1h])"), { "": 2 });
});

test("Measurement Protocol: what is wrong is answered with 400", async () => {
  quipu.begin("bad");
  const verdicts = await quipu.moved(1, () => assert.rejects(client("c1").event(""), /400/));
  assert.deepEqual(verdicts, { rejected: 1 });
});

test("Measurement Protocol: an event of the past is counted then, and one that is checked not at all", async () => {
  quipu.begin("past");
  const post = (path, events) => fetch(`${quipu.url}${path}?measurement_id=G-1&api_secret=secret`, { method: "POST", body: JSON.stringify({ client_id: "c1", timestamp_micros: EVENT_TIME * 1000, events }) });
  const verdicts = await quipu.moved(3, async () => {
    assert.equal((await post("/mp/collect", [{ name: "a" }])).status, 204);
    const { validationMessages } = await (await post("/debug/mp/collect", [{ name: "b" }, { name: 7 }])).json();
    assert.deepEqual(validationMessages.map((m) => [m.fieldPath, m.validationCode]), [["events[1].name", "NAME_INVALID"]]);
  });
  assert.deepEqual(verdicts, { accepted: 1, filtered: 1, rejected: 1 });
  assert.deepEqual(await quipu.query(`sum by (event) (${increase("15s")})`, WINDOW_END), { a: 1 });
});

test("a page: page views and events are counted, also as it is closed", async () => {
  quipu.begin("page");
  context = await site.browser.newContext();
  const page = await context.newPage();
  const complaints = [];
  page.on("console", (m) => m.type() === "error" && complaints.push(m.text()));
  await page.goto(`${site.url}/pricing?utm_source=mail`, { referer: "https://search.example/?q=shop" });
  const text = await page.evaluate(async () => (await fetch("/modules/@minimal-analytics/ga4/dist/index.js")).text());
  await page.evaluate((url) => (window.minimalAnalytics = { trackingId: "G-1", analyticsEndpoint: url, defineGlobal: true }), `${quipu.url}/g/collect`);
  await page.addScriptTag({ content: text });
  await page.evaluate(() => {
    window.track();
    window.track({ type: "order", event: { "ep.plan": "pro", "epn.value": 9.5 } });
  });
  await awaited(() => quipu.verdicts(), (v) => v.accepted === 2);
  await page.close({ runBeforeUnload: true });
  await awaited(() => quipu.verdicts(), (v) => v.accepted === 3);
  assert.deepEqual(await now(`sum by (event, page, plan, referrer, utm_source) (${increase()})`), {
    "page_view /pricing search.example mail": 1, "order /pricing pro search.example mail": 1, "user_engagement /pricing search.example mail": 1,
  });
  assert.deepEqual(await now('sum(histogram_sum(increase(event_value{field="value"}[1h] anchored)))'), { "": 9.5 });
  assert.deepEqual(await now("count_distinct(event_users[1h])"), { "": 1 });
  assert.deepEqual(complaints, []);
});
