// Calls of the public HTTP interface. The key, if one is needed, stays in this tab.

const KEY = 'wan-t2v-key';
export const key = {
  get: () => sessionStorage.getItem(KEY) || '',
  set: (value) => sessionStorage.setItem(KEY, value.trim()),
};

export class ApiError extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.param = error.param;
  }
}

function headers(more = {}) {
  return key.get() ? { authorization: `Bearer ${key.get()}`, ...more } : more;
}

// A number as it is spelt: text, which the interface takes as well, where JavaScript would round it. Seeds have 63 bits.
export function exact(text) {
  return Math.abs(Number(text)) <= Number.MAX_SAFE_INTEGER ? Number(text) : text;
}

// Not crypto.randomUUID, which browsers lack on pages over plain HTTP from another machine.
export function randomKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

// `read` has the text of a number; older browsers do not tell it.
function parse(text) {
  return JSON.parse(text, (name, value, read) => (typeof value === 'number' && read?.source ? exact(read.source) : value));
}

export async function call(method, path, body, more = {}) {
  const answer = await fetch(path, {
    method,
    headers: headers({ ...(body ? { 'content-type': 'application/json' } : {}), ...more }),
    body: body && JSON.stringify(body),
  });
  const told = await answer.text().then(parse).catch(() => ({}));
  if (!answer.ok) throw new ApiError(answer.status, told.error || { message: `the gateway answered ${answer.status}` });
  return told;
}

// A file as an object URL for <img> and <video>, which cannot send a key themselves.
export async function fileAddress(path) {
  const answer = await fetch(path, { headers: headers() });
  if (!answer.ok) throw new ApiError(answer.status, { message: `no file (${answer.status})` });
  return URL.createObjectURL(await answer.blob());
}

// Events of one video; reconnects after each break until the last event. Not EventSource, which cannot send a key.
export async function watch(videoId, onEvent, signal) {
  let lastId = '0';
  while (!signal.aborted) {
    try {
      const answer = await fetch(`/v1/videos/${videoId}/events`, { headers: headers({ 'last-event-id': lastId }), signal });
      if (answer.status === 404) return onEvent('deleted', {});
      if (answer.status === 204) return undefined; // it has ended, and its last event was told
      if (!answer.ok) throw new Error(answer.statusText);
      let rest = '';
      for (const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader(); ;) {
        const { done, value } = await reader.read();
        if (done) break;
        const blocks = (rest + value).split('\n\n');
        rest = blocks.pop();
        for (const block of blocks.filter((text) => !text.startsWith(':'))) {
          const fields = Object.fromEntries(block.split('\n').map((line) => line.split(/: (.*)/s).slice(0, 2)));
          lastId = fields.id || lastId;
          onEvent(fields.event, JSON.parse(fields.data));
          if (['completed', 'failed', 'cancelled', 'deleted'].includes(fields.event)) return;
        }
      }
    } catch (error) {
      if (signal.aborted) return;
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}
