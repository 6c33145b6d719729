// Plausible's events, by its tracker in a browser.

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { startSite } from "./browser.mjs";
import { awaited, startQuipu } from "./harness.mjs";

let quipu, site, context, page;

before(async () => {
  quipu = await startQuipu();
  site = await startSite();
});

after(async () => {
  await site?.stop();
  await quipu?.stop();
});

afterEach(() => context?.close());

// visit opens a page of the site with a tracker, as plausible in its window.
async function visit(path, { options = {}, ...browser } = {}) {
  context = await site.browser.newContext({ viewport: { width: 1500, height: 900 }, ...browser });
  page = await context.newPage();
  await page.goto(site.url + path, { referer: "https://search.example/?q=shop" });
  await page.evaluate(async ({ apiHost, options }) => {
    const { default: Plausible } = await import("/modules/plausible-tracker/build/module/index.js");
    window.plausible = Plausible({ domain: "shop.example", apiHost, ...options });
  }, { apiHost: quipu.url, options });
}

// track sends one event and returns once the tracker has its answer.
const track = (name, props, data) =>
  page.evaluate(([name, props, data]) => new Promise((resume) => window.plausible.trackEvent(name, { props, callback: resume }, data)), [name, props, data]);

const now = (expr) => quipu.query(expr, Date.now());
const increase = (selector = "") => `increase(events_total${selector}[1h] anchored)`;

test("page views and events are counted, with their labels and numbers", async () => {
  quipu.begin("labels");
  await visit("/pricing?utm_source=mail&utm_medium=e%2Dmail&utm_campaign=spring#top");
  const verdicts = await quipu.moved(4, async () => {
    await page.evaluate(() => new Promise((resume) => window.plausible.trackPageview({}, { callback: resume })));
    await track("Signed Up", { plan: "pro", seats: 3 });
    await track("Signed Up", { plan: "pro", seats: 4 });
    await track("404", {}, { url: `${site.url}/gone`, referrer: "", deviceWidth: 400 });
  });
  assert.deepEqual(verdicts, { accepted: 4 });
  assert.deepEqual(quipu.statuses(), [202, 202, 202, 202]);
  for (const { headers, body } of quipu.requests) {
    assert.equal(headers["content-type"], "text/plain");
    assert.equal(headers.origin, site.url);
    assert.notEqual(typeof JSON.parse(body).p, "object", "props are a text");
  }
  assert.deepEqual(await now(`sum by (event, device, page, plan, referrer, utm_source, utm_medium, utm_campaign) (${increase()})`), {
    "desktop pageview /pricing search.example spring e-mail mail": 1,
    "desktop Signed Up /pricing pro search.example spring e-mail mail": 2,
    "mobile 404 /gone": 1,
  });
  assert.deepEqual(await now("sum by (field) (histogram_sum(increase(event_value[1h] anchored)))"), { seats: 7 });
});

test("a visitor is an address and a browser", async () => {
  quipu.begin("visitors");
  for (const userAgent of ["Mozilla/5.0 (one)", "Mozilla/5.0 (two)", "Mozilla/5.0 (one)"]) {
    await visit("/", { userAgent });
    await track("pageview");
    await context.close();
  }
  assert.deepEqual(await now(`sum(${increase()})`), { "": 3 });
  assert.deepEqual(await now("count_distinct(event_users[1h])"), { "": 2 });
});

test("pages of a history are counted as they are shown", async () => {
  quipu.begin("history");
  await visit("/a");
  await page.evaluate(() => {
    window.plausible.enableAutoPageviews();
    history.pushState({}, "", "/b");
    history.pushState({}, "", "/a");
  });
  await awaited(() => quipu.verdicts(), (v) => v.accepted === 3);
  assert.deepEqual(await now(`sum by (event, page) (${increase()})`), { "pageview /a": 2, "pageview /b": 1 });
});

test("an event that is wrong, or that a proxy refuses, is not sent again", async () => {
  quipu.begin("bad");
  await visit("/");
  quipu.faults.push({ status: 503, headers: { "Retry-After": "1", "Access-Control-Allow-Origin": "*" } });
  await track("not counted");
  const verdicts = await quipu.moved(1, () => track(""));
  assert.deepEqual(verdicts, { rejected: 1 });
  assert.deepEqual(quipu.statuses(), [503, 400]);
});
