import { expect, it } from "vitest";
import { texts } from "./texts";

const sources = Object.entries(import.meta.glob<string>(["./**/*.ts", "./**/*.tsx"], { query: "?raw", import: "default", eager: true }))
  .filter(([path]) => !path.includes(".test.") && !path.endsWith("texts.ts"))
  .map(([, source]) => source)
  .join("\n");

it("has no words that nothing says", () => {
  const unsaid = Object.entries(texts).flatMap(([group, words]) => (typeof words === "string" || sources.includes(`texts.${group}[`) ? [] : Object.keys(words).filter((word) => !sources.includes(`texts.${group}.${word}`)).map((word) => `${group}.${word}`)));
  // The checks of a form are handed over as a whole.
  expect(unsaid.filter((one) => !/^form\.(required|json|number|atLeast|atMost|tooLong)$/.test(one))).toEqual([]);
});
