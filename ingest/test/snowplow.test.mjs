// Snowplow's tracker protocol, by its trackers for servers and for browsers.

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { buildEcommerceTransaction, buildPagePing, buildPageView, buildSelfDescribingEvent, buildStructEvent, newTracker } from "@snowplow/node-tracker";
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

// send sends what calls does with a tracker, and returns once that tells of n events that
// it sent them, or gave them up.
async function send(n, calls, { eventMethod = "post", encodeBase64 = true } = {}) {
  const told = { sent: 0, failed: 0 };
  const tracker = newTracker({ namespace: "n", appId: "shop", encodeBase64 }, {
    endpoint: quipu.url, eventMethod, bufferSize: 100, retryFailedRequests: true,
    onRequestSuccess: (events) => (told.sent += events.length),
    onRequestFailure: ({ events, willRetry }) => willRetry || (told.failed += events.length),
  });
  calls(tracker);
  await tracker.flush();
  return awaited(() => told, ({ sent, failed }) => sent + failed === n);
}

const time = (i) => ({ type: "ttm", value: EVENT_TIME + i });

const PAGE = { pageUrl: "https://shop.example/pricing?utm_source=mail", pageTitle: "Pricing", referrer: "https://search.example/?q=shop" };
const order = (plan, amount) => ({ event: { schema: "iglu:com.example/order/jsonschema/1-0-0", data: { plan, amount } } });
const CONTEXT = [{ schema: "iglu:com.example/cart/jsonschema/1-0-0", data: { size: 3 } }];

function everyKind(tracker) {
  tracker.setUserId("u1");
  tracker.track(buildPageView(PAGE), CONTEXT, time(0));
  tracker.track(buildPagePing({ ...PAGE, minXOffset: 0, maxXOffset: 0, minYOffset: 0, maxYOffset: 0 }), [], time(1));
  tracker.track(buildStructEvent({ category: "video", action: "play", value: 2.5 }), [], time(2));
  tracker.track(buildSelfDescribingEvent(order("pro", 9.5)), CONTEXT, time(3));
  tracker.setUserId("u2");
  tracker.track(buildSelfDescribingEvent(order("pro", 20)), [], time(4));
  tracker.track(buildEcommerceTransaction({ orderId: "o1", total: 40, tax: 6 }), [], time(5));
}

const increase = (range = "1h") => `increase(events_total[${range}] anchored)`;

for (const eventMethod of ["post", "get"]) {
  for (const encodeBase64 of [true, false]) {
    const what = `${eventMethod}, ${encodeBase64 ? "base64" : "JSON"}`;
    test(`node-tracker, ${what}: events of every kind are counted, with their labels, users and times, and by eid once`, async () => {
      quipu.begin(what.replace(/\W+/g, "-"));
      const verdicts = await quipu.moved(12, async () => {
        assert.deepEqual(await send(6, everyKind, { eventMethod, encodeBase64 }), { sent: 6, failed: 0 });
        for (const request of [...quipu.requests]) assert.equal(await quipu.again(request), 200);
      });
      assert.deepEqual(verdicts, { accepted: 6, duplicate: 6 });
      assert.deepEqual(await quipu.query(`sum by (event, page, plan, referrer, utm_source) (${increase()})`), {
        "page_view /pricing search.example mail": 1, "page_ping /pricing search.example mail": 1, play: 1, "order pro": 2, transaction: 1,
      });
      assert.deepEqual(await quipu.query("sum by (field) (histogram_sum(increase(event_value[1h] anchored)))"), { amount: 69.5, tax: 6, value: 2.5 });
      assert.deepEqual(await quipu.query("count_distinct(event_users[1h])"), { "": 2 });
      assert.deepEqual(await quipu.query(`sum(${increase("15s")})`, WINDOW_END), { "": 6 });
    });
  }
}

test("node-tracker: of a batch with a bad event the others are counted", async () => {
  quipu.begin("mixed");
  const verdicts = await quipu.moved(2, () => send(2, (tracker) => {
    tracker.track(buildStructEvent({ category: "c", action: "mixed" }), [], { type: "ttm", value: -1 });
    tracker.track(buildStructEvent({ category: "c", action: "mixed" }), [], time(0));
  }));
  assert.deepEqual(verdicts, { accepted: 1, rejected: 1 });
});

// visit opens a page of a site with the browser's tracker in it, as snowplow in its window.
async function visit(configuration) {
  context = await site.browser.newContext();
  const page = await context.newPage();
  await page.goto(`${site.url}/pricing?utm_source=mail`, { referer: "https://search.example/?q=shop" });
  const text = await page.evaluate(async () => (await fetch("/modules/@snowplow/browser-tracker/dist/index.umd.js")).text());
  await page.addScriptTag({ content: text });
  await page.evaluate(([url, configuration]) => {
    window.snowplow = window.snowplowBrowserTracking;
    window.snowplow.newTracker("n", url, { appId: "shop", ...configuration });
  }, [quipu.url, configuration]);
  return page;
}

for (const [what, configuration] of [["post", {}], ["get", { eventMethod: "get" }], ["beacon", { eventMethod: "beacon" }]]) {
  test(`browser-tracker, ${what}: page views and events are counted once`, async () => {
    quipu.begin(`browser-${what}`);
    const verdicts = await quipu.moved(4, async () => {
      const page = await visit(configuration);
      await page.evaluate((event) => {
        window.snowplow.trackPageView();
        window.snowplow.trackSelfDescribingEvent(event);
      }, order("pro", 9.5));
      await awaited(() => quipu.verdicts(), (v) => v.accepted === 2);
      for (const request of [...quipu.requests]) assert.equal(await quipu.again(request), 200);
    });
    assert.deepEqual(verdicts, { accepted: 2, duplicate: 2 });
    const now = (expr) => quipu.query(expr, Date.now());
    assert.deepEqual(await now(`sum by (event, page, plan, referrer, utm_source) (${increase()})`), {
      "page_view /pricing search.example mail": 1, "order /pricing pro search.example mail": 1,
    });
    assert.deepEqual(await now("count_distinct(event_users[1h])"), { "": 1 });
  });
}

test("browser-tracker: after a 503 and a lost answer events are sent again and count once", async () => {
  quipu.begin("browser-retries");
  quipu.faults.push({ status: 503, headers: { "Access-Control-Allow-Origin": site.url, "Access-Control-Allow-Credentials": "true" } }, "lost");
  const page = await visit({ eventMethod: "post" });
  await page.evaluate(() => window.snowplow.trackPageView());
  await awaited(() => quipu.statuses(), (s) => s.includes(503));
  await awaited(async () => {
    await page.evaluate(() => window.snowplow.trackStructEvent({ category: "c", action: "again" })); // which sends what waits
    return quipu.query(`sum by (event) (${increase()})`, Date.now());
  }, (counts) => counts.page_view === 1 && counts.again > 0);
});
