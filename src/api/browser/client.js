// Asking the API, and telling how it was asked.

/** Only the path of an address of ours: it is asked where the page came from, whatever a proxy made of the name. */
export function local(address) {
  const url = new URL(address, location.origin);
  return url.pathname + url.search;
}

/** An address with some parameters changed; null takes one out. */
export function changed(address, parameters) {
  const url = new URL(address, location.origin);
  for (const [name, value] of Object.entries(parameters)) {
    if (value === null) url.searchParams.delete(name);
    else url.searchParams.set(name, value);
  }
  return url.pathname + url.search;
}

function cookie(name) {
  const pair = document.cookie.split("; ").find((one) => one.startsWith(`${name}=`));
  return pair ? pair.slice(name.length + 1) : "";
}

/** Asks; never throws: what cannot be reached answers with an error of the same form. */
export async function ask(method, address, body) {
  const headers = { Accept: "application/json", "X-API-No-Challenge": "true" };
  if (method !== "GET") headers["X-API-CSRF"] = cookie("CSRF");
  if (body !== undefined) headers["Content-Type"] = "application/json";
  try {
    const answer = await fetch(local(address), {
      method, headers, credentials: "same-origin", body: body === undefined ? undefined : JSON.stringify(body),
    });
    const text = await answer.text();
    return { ok: answer.ok, status: answer.status, stale: answer.headers.get("X-Stampede-Stale"), data: read(text) };
  } catch (fault) {
    const message = `this host does not answer: ${fault.message}; try again, or ask another host`;
    return { ok: false, status: 0, data: { type: "error", status: 0, code: "NoAnswer", message } };
  }
}

function read(text) {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return { type: "error", code: "NotJson", message: text.slice(0, 500) };
  }
}

/** What went wrong, in one line. */
export function complaint(answer) {
  const { code, message, detail } = answer.data ?? {};
  return [code ?? `Status ${answer.status}`, message, detail].filter(Boolean).join(": ");
}

/** The same request for a shell. */
export function curl(method, address, body) {
  const parts = [`curl -su "${window.curlUser}"`];
  if (method !== "GET") parts.push(`-X ${method}`);
  parts.push(quoted(location.origin + local(address)));
  if (body !== undefined) parts.push(`-H 'Content-Type: application/json' -d ${quoted(JSON.stringify(body))}`);
  return parts.join(" ");
}

/** In single quotes a shell takes everything as it is but these. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
