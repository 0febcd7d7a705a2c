// Opens pages in headless Chromium, light, dark, 400 px wide and printed, and fails on serious findings of axe-core,
// errors in the console, requests to other hosts, and pages wider than the window. Called by "make audit":
//   node audit.mjs FOLDER...    every .html file directly or deeper in it; CHROMIUM names the browser.
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { createRequire } from "node:module";

const require = createRequire(path.join(process.cwd(), "package.json"));
const { chromium } = require("playwright-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const TYPES = { ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".json": "application/json", ".svg": "image/svg+xml", ".png": "image/png" };
const VIEWS = [["light", 1280, "screen"], ["dark", 1280, "screen"], ["light", 400, "screen"], ["dark", 400, "screen"], ["light", 1000, "print"]];

const listPages = (folder) => fs.readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
  const full = path.join(folder, entry.name);
  return entry.isDirectory() ? listPages(full) : entry.name.endsWith(".html") && entry.name !== "404.html" ? [full] : [];
});

const look = async (browser, address, origin, [colorScheme, width, media]) => {
  const context = await browser.newContext({ colorScheme, viewport: { width, height: 900 } });
  const page = await context.newPage();
  const findings = [];
  page.on("console", (message) => message.type() === "error" && findings.push(`console: ${message.text()}`));
  page.on("pageerror", (error) => findings.push(`script: ${error}`));
  page.on("request", (request) => /^https?:/.test(request.url()) && !request.url().startsWith(origin) && findings.push(`request: ${request.url()}`));
  await page.emulateMedia({ media, colorScheme });
  await page.goto(address);
  await page.waitForTimeout(400);
  const wider = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  if (wider > 4) findings.push(`wider than the window by ${wider} px`);
  if (media === "screen") {
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
    for (const v of violations.filter((found) => ["serious", "critical"].includes(found.impact))) {
      findings.push(`axe ${v.impact}: ${v.id}, ${v.nodes.length} times, such as ${v.nodes[0].target}`);
    }
  }
  await context.close();
  return findings.map((finding) => `${address.slice(origin.length)} ${colorScheme} ${width} ${media}: ${finding}`);
};

let root = "";
const server = http.createServer((request, response) => {
  const file = path.join(root, decodeURIComponent(new URL(request.url, "http://x").pathname));
  if (!fs.existsSync(file)) return response.writeHead(404).end();
  return response.writeHead(200, { "content-type": TYPES[path.extname(file)] ?? "application/octet-stream" }).end(fs.readFileSync(file));
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const origin = `http://127.0.0.1:${server.address().port}/`;
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
let looked = 0;
const findings = [];
for (const folder of process.argv.slice(2)) {
  root = path.resolve(folder);
  for (const page of listPages(root)) {
    for (const view of VIEWS) {
      findings.push(...(await look(browser, origin + path.relative(root, page), origin, view)));
      looked += 1;
    }
  }
}
await browser.close();
server.close();
console.log([...findings, `${looked} views, ${findings.length} findings`].join("\n"));
process.exit(findings.length ? 1 : 0);
