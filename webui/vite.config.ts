/// <reference types="vitest/config" />
import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// The agent that the development server asks; its own TLS certificate is the cluster's, which Node does not know.
const agent = process.env.STAMPEDE_AGENT ?? "http://127.0.0.1:9080";
const proxy = { target: agent, ws: true, secure: false };

export default defineConfig({
  base: "/ui/",
  plugins: [react()],
  // The agent puts a new nonce in its place for each page; styles that libraries add at run time carry it.
  html: { cspNonce: "{nonce}" },
  server: { port: 5173, proxy: { "/v1": proxy, "/session": proxy, "/cluster": proxy, "/browser": proxy } },
  // noVNC waits for something at its top level.
  optimizeDeps: { esbuildOptions: { target: "es2022" } },
  build: {
    outDir: "dist/ui",
    target: "es2022",
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 700,
  },
  test: { environment: "jsdom", include: ["src/**/*.test.{ts,tsx}"] },
});
