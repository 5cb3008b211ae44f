// Output is anyone's: what would steer a terminal is taken out, what is left is text. Works across pieces that end anywhere.

export interface Line {
  text: string;
  error: boolean;
}

const LONGEST = 10_000;
/** CSI, OSC (ended by BEL or ST), other two-byte sequences. */
// eslint-disable-next-line no-control-regex -- control characters are what this is about
const SEQUENCE = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[PX^_][^\u001b]*\u001b\\|[ -/]*[0-~])/g;
// eslint-disable-next-line no-control-regex
const BEGUN = /\u001b(?:\[[0-?]*[ -/]*|\][^\u0007\u001b]*\u001b?|[PX^_][^\u001b]*\u001b?|[ -/]*)?$/;
// Bidirectional overrides too: they would show a line as another.
// eslint-disable-next-line no-control-regex
const CONTROL = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** One output's text, made into lines. */
export class Lines {
  private decoder = new TextDecoder();
  private rest = "";

  constructor(private readonly error: boolean) {}

  take(bytes: Uint8Array): Line[] {
    let text = this.rest + this.decoder.decode(bytes, { stream: true });
    const begun = BEGUN.exec(text);
    // A sequence without an end is not waited for for ever.
    const cut = begun && text.length - begun.index < 4096 ? begun.index : text.length;
    const held = text.slice(cut);
    text = text.slice(0, cut);
    const parts = text.replace(SEQUENCE, "").split("\n");
    const last = parts.pop() ?? "";
    this.rest = last.length > LONGEST ? "" : last + held;
    if (last.length > LONGEST) parts.push(last);
    return parts.map((part) => this.line(part));
  }

  /** What was begun and not ended. */
  end(): Line[] {
    const last = this.rest.replace(SEQUENCE, "");
    this.rest = "";
    return last ? [this.line(last)] : [];
  }

  private line(raw: string): Line {
    // What a terminal would have written over: only what stood last is shown.
    const written = raw.replace(/\r+$/, "");
    const text = written.slice(written.lastIndexOf("\r") + 1).replace(CONTROL, "\ufffd");
    return { text: text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text, error: this.error };
  }
}
