export default function S(_: Record<string, string>) { return null; }
