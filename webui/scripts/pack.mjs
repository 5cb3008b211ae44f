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

const kilobytes = (bytes) => `${(bytes / 1000).toFixed(1)} KB`;
const first = [...sizes].filter(([name]) => page.includes(name)).reduce((sum, [, size]) => sum + size, 0);
const all = [...sizes.values()].reduce((sum, size) => sum + size, 0);
console.log(`the page itself loads ${kilobytes(first)} packed; all together ${kilobytes(all)}`);
