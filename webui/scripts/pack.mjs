// Packs what was built, once, as it will lie in the binary; and says what a browser loads first.
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

const root = new URL("../dist/ui", import.meta.url).pathname;
const assets = join(root, "assets");
const page = readFileSync(join(root, "index.html"), "utf8");
const sizes = new Map();

for (const name of readdirSync(assets)) {
  if (!/\.(js|css|svg)$/.test(name)) continue;
  const packed = gzipSync(readFileSync(join(assets, name)), { level: 9 });
  writeFileSync(join(assets, `${name}.gz`), packed);
  rmSync(join(assets, name));
  sizes.set(name, packed.length);
}

// Whose work is in it, and under which licences.
const lock = JSON.parse(readFileSync(new URL("../package-lock.json", import.meta.url), "utf8"));
const notices = [];
for (const [path, its] of Object.entries(lock.packages)) {
  if (!path || its.dev || its.devOptional || its.optional) continue;
  const folder = new URL(`../${path}/`, import.meta.url);
  const files = readdirSync(folder).filter((name) => /^licen[cs]e/i.test(name));
  const texts = files.map((name) => readFileSync(new URL(name, folder), "utf8").trim());
  notices.push(`${path.replace(/^.*node_modules\//, "")} ${its.version} (${its.license})\n\n${texts.join("\n\n")}`);
}
writeFileSync(join(root, "licenses.txt.gz"), gzipSync(notices.join("\n\n----------\n\n"), { level: 9 }));

const kilobytes = (bytes) => `${(bytes / 1000).toFixed(1)} KB`;
const first = [...sizes].filter(([name]) => page.includes(name)).reduce((sum, [, size]) => sum + size, 0);
const all = [...sizes.values()].reduce((sum, size) => sum + size, 0);
console.log(`the page itself loads ${kilobytes(first)} packed; all together ${kilobytes(all)}`);
