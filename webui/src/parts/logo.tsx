import { texts } from "../texts";

export function Logo({ large }: { large?: boolean }) {
  const size = large ? 36 : 26;
  return (
    <span style={{ display: "inline-flex", alignItems: "center", gap: 10, fontWeight: 700, fontSize: large ? "1.5rem" : "1.05rem" }}>
      <svg width={size} height={size} viewBox="0 0 32 32" aria-hidden>
        <rect width="32" height="32" rx="7" fill="#3b5bdb" />
        <g fill="none" stroke="#fff" strokeWidth="2.6" strokeLinecap="round" strokeLinejoin="round">
          <path d="M7 11l6 5-6 5" />
          <path d="M14.5 11l6 5-6 5" opacity=".8" />
          <path d="M22 11l4 5-4 5" opacity=".6" />
        </g>
      </svg>
      {texts.product}
    </span>
  );
}
