// A page in Chromium, of a site that is not the server's.

import { once } from "node:events";
import { readFile } from "node:fs/promises";
import http from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const MODULES = fileURLToPath(new URL("node_modules/", import.meta.url));

// startSite serves pages that hold the given HTML and, under /modules/, the files of npm
// packages: { url, browser, stop }. Trackers do not take its host for a local one.
export async function startSite(html = "") {
  const site = http.createServer(async (request, response) => {
    const { pathname } = new URL(request.url, "http://site");
    if (!pathname.startsWith("/modules/")) {
      response.writeHead(200, { "Content-Type": "text/html" }).end("<!doctype html><title>shop</title>" + html);
      return;
    }
    // Modules written for bundlers import files without their extension.
    const file = path.join(MODULES, pathname.slice("/modules/".length));
    const text = await readFile(path.extname(file) ? file : `${file}.js`).catch(() => null);
    response.writeHead(text ? 200 : 404, { "Content-Type": "text/javascript" }).end(text);
  });
  site.listen(0, "127.0.0.1");
  await once(site, "listening");
  const browser = await chromium.launch({
    executablePath: "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-background-networking", "--disable-gpu"],
  });
  const stop = async () => {
    await browser.close();
    site.closeAllConnections();
    site.close();
    await once(site, "close");
  };
  return { url: `http://shop.localhost:${site.address().port}`, browser, stop };
}
