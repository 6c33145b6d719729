// Pages counted by our own tracker, in a browser.

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { startSite } from "./browser.mjs";
import { awaited, startQuipu } from "./harness.mjs";

let quipu, site, context, page;

before(async () => {
  quipu = await startQuipu();
  site = await startSite(`
    <script defer src="${quipu.url}/q.js" data-key="key1" data-site="shop.example"></script>
    <h1>Shop</h1>
    <button data-q="buy" data-q-plan="pro"><b>Buy</b></button>
    <a href="https://other.invalid/offer" target="_blank">Elsewhere</a>
    <form data-q="subscribe"><button>Subscribe</button></form>`);
});

after(async () => {
  await site?.stop();
  await quipu?.stop();
});

afterEach(() => context?.close());

async function visit(path, options = {}, script = () => {}) {
  context = await site.browser.newContext({ viewport: { width: 1500, height: 900 }, ...options });
  page = await context.newPage();
  await page.addInitScript(script);
  await page.goto(site.url + path, { referer: "https://search.example/?q=shop" });
}

const increase = "increase(events_total[1h] anchored)";
const count = (by) => quipu.query(`sum by (${by}) (${increase})`, Date.now());
// counted waits until the events, by their names, are so many. (A browser may hide a
// page for a moment, so that what tells of it comes in more parts.)
const counted = async (want) => {
  const got = await awaited(() => count("event"), (got) => Object.entries(want).every(([name, n]) => got[name] >= n));
  assert.equal(got.pageview, want.pageview);
};

test("a page is counted within two seconds, with its labels, and keeps nothing", async () => {
  quipu.begin("labels");
  const began = Date.now();
  await visit("/pricing?utm_source=mail&utm_medium=e%2Dmail&utm_campaign=spring#top");
  await counted({ pageview: 1 });
  assert.ok(Date.now() - began < 2000, `it took ${Date.now() - began} ms`);
  assert.deepEqual(await count("event, device, page, referrer, utm_source, utm_medium, utm_campaign"), {
    "desktop pageview /pricing search.example spring e-mail mail": 1,
  });
  assert.deepEqual(await context.cookies(), []);
  assert.equal(await page.evaluate(() => localStorage.length + sessionStorage.length), 0);
  assert.equal(JSON.parse(quipu.requests[0].body).k, "key1");
  assert.equal(JSON.parse(quipu.requests[0].body).d, "shop.example");
});

test("clicks, forms and links to other sites are events, and so is what the page's code says", async () => {
  quipu.begin("clicks");
  await visit("/");
  await page.route("https://other.invalid/**", (route) => route.abort());
  await page.click("[data-q=buy] b");
  await page.click("a");
  await page.evaluate(() => {
    document.forms[0].addEventListener("submit", (event) => event.preventDefault());
    window.quipu("order", { plan: "free", amount: 9.5 });
  });
  await page.click("form button");
  const got = await awaited(() => count("event, plan"), (got) => Object.keys(got).length >= 5);
  for (const name of ["pageview", "buy pro", "outbound", "order free", "subscribe"]) assert.equal(got[name], 1, `${name} of ${JSON.stringify(got)}`);
});

test("pages of a history are counted as they are shown, with the time in sight", async () => {
  quipu.begin("history");
  await visit("/a");
  await page.evaluate(() => {
    history.pushState({}, "", "/b");
    history.pushState({}, "", "/b?filter=1");
    history.replaceState({}, "", "/c");
  });
  await page.goBack();
  await page.goBack();
  await counted({ pageview: 3, engaged: 2 });
  const got = await count("event, page");
  assert.equal(got["pageview /a"], 2, JSON.stringify(got));
  assert.equal(got["pageview /b"], 1, JSON.stringify(got));
  const [seconds] = Object.values(await quipu.query('sum(histogram_sum(increase(event_value{field="seconds"}[1h] anchored)))', Date.now()));
  assert.ok(seconds > 0 && seconds < 60, `${seconds} s`);
});

test("leaving a page sends what is left, and its web vitals", async () => {
  quipu.begin("vitals");
  await visit("/");
  await awaited(() => page.evaluate(() => performance.getEntriesByName("first-contentful-paint").length), (n) => n > 0);
  await page.goto("about:blank");
  await counted({ pageview: 1, engaged: 1, vitals: 1 });
  const got = await quipu.query("sum by (field) (histogram_count(increase(event_value[1h] anchored)))", Date.now());
  for (const field of ["ttfb", "fcp"]) assert.equal(got[field], 1, JSON.stringify(got));
});

test("an event whose answer was lost is sent again and counts once", async () => {
  quipu.begin("lost");
  quipu.faults.push("lost", { status: 503 });
  await visit("/");
  await awaited(() => quipu.statuses().length, (n) => n >= 3);
  await awaited(() => quipu.statuses()[2], (status) => status === 200);
  assert.deepEqual(await quipu.verdicts(), { accepted: 1, duplicate: 1, filtered: 0, rejected: 0 });
});

test("events that come while a request is under way are sent after it", async () => {
  quipu.begin("meanwhile");
  let release;
  const held = new Promise((resume) => (release = resume));
  context = await site.browser.newContext();
  page = await context.newPage();
  let posts = 0;
  await page.route("**/q", async (route) => {
    if (++posts === 1) await held;
    await route.continue();
  });
  await page.goto(site.url + "/");
  await awaited(() => posts, (n) => n === 1);
  await page.evaluate(() => window.quipu("one"));
  // Three times as long as events wait for others.
  await page.evaluate(() => new Promise((resume) => setTimeout(resume, 600)));
  assert.equal(posts, 1, "there is one request at a time");
  await page.evaluate(() => window.quipu("two"));
  release();
  const got = await awaited(() => count("event"), (got) => got.pageview && got.one && got.two);
  assert.deepEqual([got.pageview, got.one, got.two], [1, 1, 1]);
});

test("many large events arrive, more than a browser lets outlive a page", async () => {
  quipu.begin("large");
  await visit("/");
  await page.evaluate(() => {
    for (let i = 0; i < 49; i++) window.quipu("large", { text: "x".repeat(1800) });
  });
  const got = await awaited(() => count("event"), (got) => got.large >= 49);
  assert.equal(got.large, 49);
});

for (const [what, script] of [
  ["Do Not Track", () => Object.defineProperty(navigator, "doNotTrack", { get: () => "1" })],
  ["Global Privacy Control", () => Object.defineProperty(navigator, "globalPrivacyControl", { get: () => true })],
]) {
  test(`${what} is honoured`, async () => {
    quipu.begin(what.replaceAll(" ", "-"));
    await visit("/", {}, script);
    await page.evaluate(() => window.quipu("order"));
    await page.goto("about:blank");
    // A visitor who allows it, so that there is something to wait for.
    await visit("/");
    await awaited(() => quipu.statuses().length, (n) => n >= 1);
    await counted({ pageview: 1 });
  });
}
