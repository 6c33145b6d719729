// A server with some events, and programs of other projects that ask it.

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";
import path from "node:path";
import { startServer } from "../../internal/testserver/server.mjs";

// TENANT is whose the events are that a client asks for by a header; those of "default"
// are asked for by programs that send none.
export const TENANT = "shop";

// NOW is the end of the last whole minute. Each of the two pages, /a and /b, was viewed in
// each of the ten minutes before it: /a once, /b twice.
export const NOW = Math.floor(Date.now() / 60_000) * 60_000;
export const MINUTES = 10;

// startFilled returns { url, stop } of a server that has the events.
export async function startFilled() {
  const server = await startServer();
  for (const tenant of ["default", TENANT]) {
    const events = [];
    for (let minute = 0; minute < MINUTES; minute++) {
      for (const page of ["/a", "/b", "/b"]) {
        const further_data = { event: "view", page, amount: 2.5 };
        events.push({ data: { timestamp: NOW - minute * 60_000 - 30_000, correlation_id: `trace${minute}`, further_data } });
      }
    }
    const headers = { "content-type": "application/json", "x-scope-orgid": tenant };
    const response = await fetch(`${server.url}/api/v1/events`, { method: "POST", headers, body: JSON.stringify(events) });
    const { accepted } = await response.json();
    if (accepted !== events.length) throw new Error(`${accepted} of ${events.length} events were accepted`);
  }
  return server;
}

// Debian's programs are unpacked by "make test-clients"; elsewhere they are where the
// shell finds them.
const UNPACKED = fileURLToPath(new URL("../../bin/debian/usr/bin", import.meta.url));
const env = { ...process.env, PATH: UNPACKED + path.delimiter + process.env.PATH };

// run returns { code, stdout, stderr } of a program that has ended.
export function run(program, args, stdin = "") {
  return new Promise((resolve, reject) => {
    const child = execFile(program, args, { env, timeout: 60_000 }, (err, stdout, stderr) => {
      if (err && typeof err.code !== "number") return reject(err);
      resolve({ code: err?.code ?? 0, stdout, stderr });
    });
    child.stdin.end(stdin);
  });
}

// start returns { log, stop } of a program that runs on.
export function start(program, args) {
  const child = spawn(program, args, { env, stdio: ["ignore", "pipe", "pipe"] });
  let log = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (log += text));
  const gone = new Promise((resolve) => child.on("error", (err) => resolve((log += err))).on("exit", resolve));
  return {
    log: () => log,
    stop: async () => {
      child.kill("SIGTERM");
      await gone;
    },
  };
}

// freePort returns a port of 127.0.0.1 that nothing listens on.
export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

// awaited calls get until it returns something, and returns that.
export async function awaited(get, about, timeout = 60_000) {
  for (const deadline = Date.now() + timeout; ; await new Promise((resume) => setTimeout(resume, 50))) {
    const got = await get();
    if (got) return got;
    if (Date.now() > deadline) throw new Error(`nothing after ${timeout} ms: ${about()}`);
  }
}
