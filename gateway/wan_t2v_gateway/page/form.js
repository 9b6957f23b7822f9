// The form: the request's fields, errors at their field, and the same request as curl and Python.

import { ApiError, call, exact, key, randomKey } from './api.js';

export function setUpForm(form, onCreated) {
  const keyField = form.querySelector('#key');
  keyField.value = key.get();
  keyField.addEventListener('change', () => { key.set(keyField.value); location.reload(); });
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    clearErrors(form);
    const button = form.querySelector('[type=submit]');
    button.disabled = true;
    try {
      onCreated(await call('POST', '/v1/videos', request(form), { 'idempotency-key': randomKey() }));
    } catch (error) {
      showError(form, error);
    }
    button.disabled = false;
  });
  form.elements.prompt.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  const code = form.querySelector('#code');
  form.querySelector('#as-code').addEventListener('click', () => {
    code.textContent = asCode(request(form));
    code.hidden = false;
    code.focus();
  });
}

// Shows the server's limits and defaults, as the gateway read them.
export function showLimits(form, limits) {
  for (const [name, field] of Object.entries(limits.fields)) {
    const element = form.elements[name];
    if (element?.tagName === 'SELECT') showChoices(element, field);
    else if (element?.inputMode && field.default !== undefined) element.placeholder = `${field.default} ${range(field)}`;
  }
  const { height, width, num_frames: frames } = limits.fields;
  form.querySelector('#sizes').replaceChildren(...limits.sizes.map((size) => new Option(size, size)));
  form.elements.size.placeholder = `${width.default}x${height.default} (${limits.sizes.join(', ') || `to ${limits.largest_size}`})`;
  const rate = limits.most_frames / limits.longest_seconds;
  const seconds = (count) => (count / rate).toFixed(1);
  form.elements.seconds.placeholder = `${seconds(frames.default)} (to ${seconds(limits.most_frames)} at ${rate} frames a second)`;
}

function showChoices(select, field) {
  const value = select.value;
  const options = field.choices.filter((one) => one !== field.default).map((one) => new Option(one, one));
  select.replaceChildren(new Option(`${field.default} (default)`, ''), ...options);
  select.value = value;
}

function range({ minimum, above, maximum }) {
  const least = above === undefined ? minimum : `above ${above}`;
  if (least === undefined || maximum > Number.MAX_SAFE_INTEGER) return '';
  return maximum === undefined ? `(${least} or more)` : `(${least} to ${maximum})`;
}

function request(form) {
  const fields = {};
  for (const [name, value] of new FormData(form)) {
    if (value.trim() === '') continue;
    const number = ['numeric', 'decimal'].includes(form.elements[name].inputMode) && name !== 'seconds';
    fields[name] = number ? exact(value) : value;
  }
  return fields;
}

function showError(form, error) {
  const param = error instanceof ApiError ? error.param : null;
  const field = form.elements[{ width: 'size', height: 'size', num_frames: 'seconds' }[param] || param];
  if (!field) {
    form.querySelector('#form-error').textContent = error.message;
    return;
  }
  const note = Object.assign(document.createElement('span'), {
    className: 'error', id: `error-${field.name}`, textContent: error.message,
  });
  note.setAttribute('role', 'alert');
  field.after(note);
  field.setAttribute('aria-invalid', 'true');
  field.setAttribute('aria-describedby', note.id);
  field.closest('details')?.setAttribute('open', '');
  field.focus();
}

function clearErrors(form) {
  form.querySelector('#form-error').textContent = '';
  form.querySelectorAll('span.error').forEach((note) => note.remove());
  form.querySelectorAll('[aria-invalid]').forEach((field) => field.removeAttribute('aria-invalid'));
}

function asCode(fields) {
  const body = JSON.stringify(fields);
  const quoted = body.replaceAll("'", "'\\''");
  const bearer = key.get() ? " -H 'authorization: Bearer YOUR_KEY'" : '';
  return `curl ${location.origin}/v1/videos${bearer} -H 'content-type: application/json' \\\n  -d '${quoted}'\n\n`
    + 'from openai import OpenAI\n'
    + `client = OpenAI(base_url="${location.origin}/v1", api_key="YOUR_KEY")\n`
    + `video = client.videos.create_and_poll(prompt=${JSON.stringify(fields.prompt || '')},\n`
    + `    extra_body=${JSON.stringify({ ...fields, prompt: undefined })})\n`
    + 'client.videos.download_content(video.id).write_to_file("video.mp4")\n';
}
