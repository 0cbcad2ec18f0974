// The server's requests, and whether it is there.

export class GoneError extends Error {} // nobody answers
export class RefusedError extends Error {} // the server has said in a sentence why not

const PATIENCE = 15000; // milliseconds until a server that is silent counts as gone
const BUSY = [429, 503];

// This page, among those that ask the same server.
const page = Array.from(crypto.getRandomValues(new Uint8Array(12)), (x) => x.toString(16).padStart(2, "0")).join("");

async function request(path, options) {
  let answer, content;
  try {
    answer = await fetch(path, { ...options, signal: AbortSignal.timeout(PATIENCE) });
    content = await answer.json();
  } catch {
    throw new GoneError();
  }
  if (BUSY.includes(answer.status)) {
    await new Promise((done) => setTimeout(done, 1000));
    return request(path, options);
  }
  if (!answer.ok) throw new RefusedError(content.error);
  return content;
}

export const about = () => request("api/about");

export const characters = () => request(`api/characters?seed=${crypto.getRandomValues(new Uint32Array(1))[0]}`);

export const prepare = async (file) =>
  (await request("api/prepare", { method: "POST", headers: { "Content-Type": file.type }, body: file })).pixels;

export const answer = (support, queries) =>
  request("api/answer", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ page, support, queries }),
  });
