// Opens the status page in headless Chromium, checks it and takes screenshots. Called by status_page.sh:
//
//   node status_page.mjs URL DIRECTORY SERVER_PID URL_AT_REST
//
// The first server is under load, the second has nothing to do.
//
// Talks to the browser through its debugging pipe, so there is nothing to install besides the two.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [url, into, server, idle] = process.argv.slice(2);
const VIEWS = [
  { name: "wide-light", width: 1280, height: 900, scheme: "light" },
  { name: "wide-dark", width: 1280, height: 900, scheme: "dark" },
  { name: "phone-light", width: 390, height: 844, scheme: "light" },
  { name: "phone-dark", width: 360, height: 740, scheme: "dark" },
];
/** So long is what the charts show before anybody looks. */
const LOADED_MS = 12_000;
const HUNG_MS = 240_000;

const profile = mkdtempSync(join(tmpdir(), "status-page-"));
const browser = spawn(process.env.CHROMIUM || "chromium", [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", `--user-data-dir=${profile}`, "--remote-debugging-pipe", "about:blank",
], { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
browser.on("error", error => fail(`no browser: ${error.message}`));

function fail(why) {
  console.error(`FAILED: ${why}`);
  process.exit(1);
}
process.on("exit", () => {
  browser.kill("SIGKILL");
  try { rmSync(profile, { recursive: true, force: true, maxRetries: 5 }); } catch { /* The system cleans up. */ }
});
setTimeout(() => fail("it hangs"), HUNG_MS).unref();
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));
const check = (holds, what) => { if (!holds) fail(what); console.log(`ok: ${what}`); };

// ---- The pipe: JSON, each ended by a zero byte ----
const answers = new Map(), listeners = [];
let last = 0, pending = Buffer.alloc(0);
browser.stdio[4].on("data", data => {
  pending = Buffer.concat([pending, data]);
  for (let end; (end = pending.indexOf(0)) >= 0; pending = pending.subarray(end + 1)) {
    const message = JSON.parse(pending.subarray(0, end).toString());
    if (message.id === undefined) listeners.forEach(listener => listener(message));
    else answers.get(message.id)?.(message);
  }
});
function call(method, params = {}, sessionId) {
  const id = ++last;
  browser.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + "\0");
  return new Promise(resolve => answers.set(id, message => {
    answers.delete(id);
    if (message.error) fail(`${method}: ${message.error.message}`);
    resolve(message.result);
  }));
}

async function open(view, address = url, blocked = []) {
  const { targetId } = await call("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await call("Target.attachToTarget", { targetId, flatten: true });
  const page = { errors: [], requests: [], send: (method, params) => call(method, params, sessionId) };
  listeners.push(({ method, params, sessionId: from }) => {
    if (from !== sessionId) return;
    if (method === "Network.requestWillBeSent") page.requests.push(params.request.url);
    if (method === "Runtime.exceptionThrown") page.errors.push(params.exceptionDetails.exception?.description || "an exception");
    if (method === "Runtime.consoleAPICalled") page.errors.push(params.args.map(arg => arg.value).join(" "));
    if (method === "Log.entryAdded") page.errors.push(`${params.entry.text} ${params.entry.url || ""}`);
  });
  page.value = async expression =>
    (await page.send("Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true })).result.value;
  page.text = id => page.value(`document.getElementById(${JSON.stringify(id)}).textContent`);
  page.close = () => call("Target.closeTarget", { targetId });
  for (const domain of ["Page", "Runtime", "Log", "Network"]) await page.send(`${domain}.enable`);
  const { width, height } = view;
  await page.send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: width < 500 });
  await page.send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: view.scheme }] });
  await page.send("Network.setBlockedURLs", { urls: blocked });
  await page.send("Page.navigate", { url: address });
  return page;
}

async function shoot(page, view, name) {
  const { cssContentSize } = await page.send("Page.getLayoutMetrics");
  const clip = { x: 0, y: 0, width: view.width, height: Math.ceil(cssContentSize.height), scale: 1 };
  const shot = await page.send("Page.captureScreenshot", { format: "png", captureBeyondViewport: true, clip });
  writeFileSync(join(into, `${name}.png`), Buffer.from(shot.data, "base64"));
}

/** Waits until the page shows this state. That it never does is a check that hangs. */
async function until(page, state) {
  console.log(`waiting for ${state}`);
  while (!state.test(await page.text("state"))) await sleep(100);
}

/** How many colours the map has. */
const colours = page => page.value(`(() => { const c = document.getElementById("map"); if (!c || !c.width) return 0;
  const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data, seen = new Set();
  for (let i = 0; i < d.length; i += 4) seen.add(d[i] << 16 | d[i + 1] << 8 | d[i + 2]); return seen.size; })()`);

/** Has the page draw itself anew, and waits until it has. */
const redraw = page => page.value(`new Promise(drawn => { dispatchEvent(new Event("resize"));
  requestAnimationFrame(() => requestAnimationFrame(() => drawn(true))); })`);

await sleep(LOADED_MS);
for (const view of VIEWS) {
  const page = await open(view);
  await sleep(3500);
  const before = [await page.text("frames-of"), await page.text("bytes-of")];
  await sleep(2200);
  const after = [await page.text("frames-of"), await page.text("bytes-of")];
  check(parseFloat(before[0]) > 0 && before[0] !== after[0], `${view.name}: frames move (${before[0]}, ${after[0]})`);
  check(before[1] !== after[1], `${view.name}: bytes move (${after[1]})`);
  const past = await page.value("rows.length");
  check(past > LOADED_MS / 1000, `${view.name}: a new page has a past (${past} samples)`);
  const drawn = await colours(page);
  check(drawn >= 3, `${view.name}: the map shows free, used and set aside memory (${drawn} colours)`);
  const live = await page.text("live");
  check(live !== "0 B" && live !== "-", `${view.name}: memory was in use in the last second (${live})`);
  const answered = await page.value(`document.querySelector("#by-state .end").textContent`);
  check(answered !== "0 %", `${view.name}: connections are answered (${answered} of the time)`);
  const wide = await page.value("document.documentElement.scrollWidth");
  check(wide <= view.width, `${view.name}: fits its width (${wide} of ${view.width})`);
  check(page.errors.length === 0, `${view.name}: no errors in the console ${page.errors.join("; ")}`);
  const foreign = page.requests.filter(request => !request.startsWith(url) && !request.startsWith("data:"));
  check(foreign.length === 0, `${view.name}: asks nobody else ${foreign.join(" ")}`);
  await shoot(page, view, view.name);
  await page.close();
}

// Without a single event, a page shows all that was known when it was asked for.
const first = await open(VIEWS[0], url, ["*/events"]);
await sleep(1500);
const [past, drawn] = [await first.value("rows.length"), await colours(first)];
check(past > LOADED_MS / 1000 && drawn >= 3, `the first paint has the past and the map (${past} samples, ${drawn} colours)`);
const panels = await first.value(`["by-state", "by-held", "blocks", "oldest"].filter(id => !document.getElementById(id).children.length)`);
check(panels.length === 0, `and no empty panel ${panels.join(" ")}`);
await shoot(first, VIEWS[0], "first");
await first.close();

// Memory that nobody uses is not in pieces.
for (const view of [VIEWS[0], VIEWS[2]]) {
  const rest = await open(view, idle);
  await until(rest, /^ready$/);
  const pieces = await rest.text("fragmentation");
  check(pieces === "0 %", `${view.name}: memory at rest is not fragmented (${pieces} ${await rest.text("fragmentation-of")})`);
  await shoot(rest, view, `rest-${view.name}`);
  await rest.close();
}

// As many look as may: one more says so, and shows the server when a place is free.
const crowd = new AbortController();
for (let looking = 0; looking < 16; looking += 1) await fetch(new URL("events", url), { signal: crowd.signal });
const late = await open(VIEWS[0]);
await until(late, /^as many look already as may$/);
check(true, "one too many is told why");
crowd.abort();
await until(late, /^ready$/);
check(true, "and tries again");
await late.close();

// A server that hangs closes nothing: that nothing comes is all that shows.
const stale = await open(VIEWS[0]);
await until(stale, /^ready$/);
process.kill(Number(server), "SIGSTOP");
await until(stale, /^no news for \d+ s$/);
await redraw(stale);
const silent = await stale.text("state");
check(/^no news for \d+ s$/.test(silent), `a server that hangs is not ready, also drawn anew (${silent})`);
const looks = await stale.value("document.getElementById('state').className");
check(looks === "pill bad", `and looks like that (${looks})`);
await shoot(stale, VIEWS[0], "stale");
process.kill(Number(server), "SIGCONT");
await until(stale, /^ready$/);
check(true, "and is ready when it goes on");
await stale.close();

// Slow peers keep it draining for a while.
const page = await open(VIEWS[0]);
await sleep(2500);
process.kill(Number(server), "SIGTERM");
await sleep(2500);
const state = await page.text("state");
check(state === "draining", `the page says that the server drains (${state}: ${await page.text("about")})`);

// What was said last is not said of a server that is gone.
process.kill(Number(server), "SIGKILL");
await until(page, /^no connection to the server$/);
await redraw(page);
const gone = await page.text("state");
check(gone === "no connection to the server", `the page says that the server is gone, also drawn anew (${gone})`);
console.log(`screenshots are in ${into}`);
process.exit(0);
