import { describe, expect, it } from "vitest";
import { Lines } from "./ansi";

const bytes = (text: string) => new TextEncoder().encode(text);
const lines = (...pieces: string[]) => {
  const reader = new Lines(false);
  return [...pieces.flatMap((piece) => reader.take(bytes(piece))), ...reader.end()].map((line) => line.text);
};

describe("output", () => {
  it("is cut into lines wherever pieces end", () => {
    expect(lines("one\ntw", "o\nthree")).toEqual(["one", "two", "three"]);
  });

  it("keeps letters whole whose bytes come apart", () => {
    const reader = new Lines(true);
    const whole = bytes("grün\n");
    expect([...reader.take(whole.slice(0, 3)), ...reader.take(whole.slice(3))]).toEqual([{ text: "grün", error: true }]);
  });

  it("loses what steers a terminal, also in pieces", () => {
    expect(lines("\u001b[31mred\u001b[0m\n")).toEqual(["red"]);
    expect(lines("\u001b]0;title\u0007text\n")).toEqual(["text"]);
    expect(lines("\u001b]8;;http://evil\u001b\\link\u001b]8;;\u001b\\\n")).toEqual(["link"]);
    expect(lines("a\u001b", "[3", "1mb\n")).toEqual(["ab"]);
    expect(lines("\u001bP+q544e\u001b\\x\n")).toEqual(["x"]);
    expect(lines("\u001bc\u001b[2J\u001b[?1049hx\n")).toEqual(["x"]);
  });

  it("shows only what was written last on a line, and no letter that hides others", () => {
    expect(lines("10%\r50%\r100%\r\n")).toEqual(["100%"]);
    expect(lines("a\u0000b\u0008c\n")).toEqual(["a\ufffdb\ufffdc"]);
    expect(lines("evil\u202egnp.exe\n")).toEqual(["evil\ufffdgnp.exe"]);
  });

  it("holds a line without an end within bounds", () => {
    const reader = new Lines(false);
    let found = 0;
    for (let round = 0; round < 100; round += 1) found += reader.take(bytes("x".repeat(1000))).length;
    expect(found).toBeGreaterThan(5);
    expect(Math.max(...lines("y".repeat(50_000)).map((line) => line.length))).toBeLessThanOrEqual(10_001);
  });

  it("does not wait for ever for the end of a sequence", () => {
    expect(lines(`\u001b]${"z".repeat(10_000)}`, "\nafter\n").at(-1)).toBe("after");
  });
});
