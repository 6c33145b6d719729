// The page in a real browser, over a real server.

import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { chromium } from "playwright-core";
import { makeKey, startProxy, startServer } from "../../internal/testserver/server.mjs";

const HOUR = 3_600_000;
const TIMEOUT_MS = 15_000;

// The events: so many on each page, in the two whole hours before the present one.
const POSTED = { "/pricing": 23, "/docs": 12, "/": 5 };
const TOTAL = Object.values(POSTED).reduce((a, b) => a + b);
const LAST_HOUR_END = Math.floor(Date.now() / HOUR) * HOUR;
const FIRST_EVENT = LAST_HOUR_END - 2 * HOUR + 60_000;
const LAST_EVENT = LAST_HOUR_END - 90_000;

let server, browser, context, page;
let complaints; // console errors, page errors and requests to anywhere else

async function post(body) {
  const response = await fetch(`${server.url}/api/v1/events`, { method: "POST", body });
  assert.equal(response.status, 200, `POST /api/v1/events: ${await response.clone().text()}`);
}

function events() {
  const pages = Object.entries(POSTED).flatMap(([name, count]) => Array(count).fill(name));
  return pages.map((name, i) => ({
    data: {
      event: "page_view",
      user_id: `user-${i % 7}`,
      timestamp: Math.round(FIRST_EVENT + ((LAST_EVENT - FIRST_EVENT) * i) / (pages.length - 1)),
      further_data: { page: name, duration_ms: 10 + i },
    },
  }));
}

function watch(page, base) {
  // The browser itself reports the refusal of a bad query, or of one without a key.
  page.on("console", (m) => m.type() === "error" && !/status of 40[013]/.test(m.text()) && complaints.push(m.text()));
  page.on("pageerror", (err) => complaints.push(String(err)));
  page.on("request", (request) => request.url().startsWith(base) || complaints.push(`request to ${request.url()}`));
  page.setDefaultTimeout(TIMEOUT_MS);
}

async function open(path = "/", options = {}, base = server.url) {
  context = await browser.newContext({ viewport: { width: 1200, height: 850 }, timezoneId: "Asia/Kolkata", ...options });
  page = await context.newPage();
  watch(page, base);
  await page.goto(base + path);
}

async function run(expr) {
  await page.fill("#expr", expr);
  await page.press("#expr", "Enter");
}

// idle waits until the page that was opened shows an answer.
async function idle() {
  await page.waitForFunction(() => !document.querySelector("#result").hasAttribute("aria-busy") &&
    (document.querySelector("#summary").textContent || document.querySelector("#messages .error")));
}

async function tableRows() {
  await page.waitForSelector("#panel-table td");
  return page.$$eval("#panel-table tbody tr", (rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent)));
}

before(async () => {
  server = await startServer();
  browser = await chromium.launch({
    executablePath: "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-background-networking", "--disable-gpu"],
  });
});

after(async () => {
  await browser?.close();
  await server?.stop();
});

beforeEach(() => (complaints = []));

afterEach(async () => {
  await context?.close();
  assert.deepEqual(complaints, []);
});

test("without data, the page shows an event that the server accepts", async () => {
  await open();
  await page.waitForSelector("#empty:not([hidden])");
  const command = await page.textContent("#first-event");
  assert.ok(command.includes(`${server.url}/api/v1/events`), command);
  await post(command.match(/-d '(.*)'/s)[1]);
  await page.click("#newest");
  await page.getByRole("button", { name: "events_total", exact: true }).click();
  const rows = await tableRows();
  assert.equal(rows.length, 1);
  assert.ok(rows[0].includes("signup"), String(rows[0]));
  assert.equal(rows[0].at(-1), "1");
});

test("it opens on the newest data, with a chart drawn", async () => {
  const tenant = "shop";
  const response = await fetch(`${server.url}/api/v1/events`, {
    method: "POST",
    headers: { "X-Scope-OrgID": tenant, "Content-Type": "application/json" },
    body: JSON.stringify(events()),
  });
  assert.equal(response.status, 200, await response.clone().text());
  assert.equal((await response.json()).accepted, TOTAL);

  await open(`/#tenant=${tenant}`);
  await page.waitForSelector("#panel-graph canvas");
  const end = Date.parse((await page.inputValue("#end")) + "Z");
  const start = Date.parse((await page.inputValue("#start")) + "Z");
  assert.ok(start <= FIRST_EVENT && start > FIRST_EVENT - HOUR, new Date(start).toISOString());
  assert.ok(end >= LAST_EVENT && end <= LAST_EVENT + 120_000, new Date(end).toISOString());
  const coloured = await page.$eval("#panel-graph canvas", (canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 200 && data[i + 2] > data[i] + 100) count++;
    return count;
  });
  assert.ok(coloured > 50, `${coloured} pixels of the line`);
});

test("the table shows exactly the events posted", async () => {
  await open("/#tenant=shop");
  await page.getByRole("button", { name: "Top pages" }).click();
  const want = Object.entries(POSTED).map(([name, count]) => [name, String(count)]).sort();
  assert.deepEqual((await tableRows()).sort(), want);
  await page.getByRole("button", { name: "Unique users", exact: true }).click();
  await page.waitForFunction(() => document.querySelectorAll("#panel-table tbody tr").length === 1);
  assert.deepEqual(await tableRows(), [["7"]]);
});

test("a header orders the rows by its column", async () => {
  await open("/#tenant=shop");
  await page.getByRole("button", { name: "Top pages" }).click();
  await tableRows();
  const values = async () => (await tableRows()).map((row) => row.at(-1));
  await page.getByRole("button", { name: "value", exact: true }).click();
  assert.deepEqual(await values(), ["23", "12", "5"]);
  await page.getByRole("button", { name: "value", exact: true }).click();
  assert.deepEqual(await values(), ["5", "12", "23"]);
});

test("an error of the server is shown, and goes with the next answer", async () => {
  await open("/#tenant=shop");
  await idle();
  await run("sum(");
  assert.match(await page.textContent("#messages .error"), /parse error/);
  await run("sum(events_total)");
  await page.waitForSelector("#messages .error", { state: "detached" });
  await page.waitForSelector("#result:not([aria-busy])");
});

test("a wrong step or tenant is refused before it is sent", async () => {
  await open("/#tenant=shop");
  await idle();
  await page.fill("#step", "often");
  await page.press("#step", "Enter");
  assert.match(await page.textContent("#messages .error"), /"often"/);
  await page.fill("#step", "");
  await page.click("#tenant-box summary");
  await page.fill("#tenant", "a b");
  await page.press("#tenant", "Enter");
  assert.match(await page.textContent("#messages .error"), /"a b"/);
});

test("a link shows the same answer", async () => {
  await open("/#tenant=shop");
  await idle();
  await page.getByRole("button", { name: "Top pages" }).click();
  const rows = await tableRows();
  const link = page.url();
  await context.close();
  await open(link.slice(server.url.length));
  assert.deepEqual(await tableRows(), rows);
  assert.equal(await page.inputValue("#tenant"), "shop");
});

test("Back returns to the query before", async () => {
  await open("/#tenant=shop");
  await idle();
  await run("vector(1)");
  await run("vector(2)");
  await page.goBack();
  await page.waitForFunction(() => document.querySelector("#expr").value === "vector(1)");
});

test("a tenant sees nothing of another", async () => {
  await open("/#tenant=shop");
  await idle();
  await page.click("#tenant-box summary");
  await page.fill("#tenant", "other-shop");
  await page.press("#tenant", "Enter");
  await page.waitForSelector("#empty:not([hidden])");
  await page.waitForFunction(() => document.querySelector("#metrics").textContent === "none yet");
});

test("with credentials, it asks for a key, keeps it for the tab and sends it as bearer", async () => {
  const guarded = await startServer("--auth=required");
  try {
    const key = makeKey(guarded, "shop", "admin");
    const authorization = { Authorization: `Bearer ${key}` };
    for (const deadline = Date.now() + TIMEOUT_MS; ; ) {
      const response = await fetch(`${guarded.url}/api/v1/events`, { method: "POST", headers: authorization, body: JSON.stringify(events()) });
      if (response.ok) break;
      assert.ok(response.status === 401 && Date.now() < deadline, `${response.status} ${await response.text()}`);
    }
    await open("/", {}, guarded.url);
    await page.waitForSelector("#messages .error");
    assert.match(await page.textContent("#messages .error"), /refuses this: this needs a credential/);
    await page.fill("#key", "qp_wrong"); // its box is open
    await page.press("#key", "Enter");
    await page.getByText("neither an API key nor a token").waitFor();
    await page.fill("#key", key);
    await page.press("#key", "Enter");
    await page.waitForSelector("#panel-graph canvas");
    assert.equal(await page.textContent("#key-state"), "set");
    assert.ok(!page.url().includes(key), page.url());
    assert.deepEqual(await context.cookies(), []);
    await page.reload();
    await idle();
    assert.equal(await page.$$eval("#messages .error", (errors) => errors.length), 0);
    const other = await context.newPage(); // another tab has no key
    await other.goto(`${guarded.url}/`);
    await other.waitForSelector("#messages .error");
  } finally {
    await context?.close();
    await guarded.stop();
  }
});

test("it works under the path of a proxy", async () => {
  const proxy = await startProxy(server.url);
  try {
    await open("/#tenant=shop", {}, proxy.url);
    await page.waitForSelector("#panel-graph canvas");
    await context.close();
  } finally {
    await proxy.stop();
  }
});

test("the keyboard reaches tabs and runs queries", async () => {
  await open("/#tenant=shop");
  await idle();
  await page.focus("#tab-graph");
  await page.keyboard.press("ArrowLeft");
  await page.waitForSelector('#tab-table[aria-selected="true"]');
  assert.equal(await page.evaluate(() => document.activeElement.id), "tab-table");
});

test("times can be read in local time", async () => {
  await open("/#tenant=shop");
  await idle();
  const before = await page.inputValue("#end");
  const utc = Date.parse(before + "Z");
  await page.selectOption("#zone", "local");
  await page.waitForFunction((before) => document.querySelector("#end").value !== before, before);
  const local = Date.parse((await page.inputValue("#end")) + "+05:30"); // Kolkata's
  assert.equal(local, utc);
});

test("a phone in the dark shows no more than its width", async () => {
  await open("/#tenant=shop", { viewport: { width: 360, height: 740 }, colorScheme: "dark", isMobile: true, hasTouch: true });
  await page.waitForSelector("#panel-graph canvas");
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(width <= 360, `the page is ${width} px wide`);
});
