// The page: a form, and the list of videos. It uses only the public HTTP interface.

import { call } from './api.js';
import { Card } from './card.js';
import { setUpForm, showLimits } from './form.js';

const form = document.querySelector('#request');
const list = document.querySelector('#videos');
const status = document.querySelector('#connection');
const more = document.querySelector('#more');
const queueLine = document.querySelector('#queue');
const cards = new Map();
let limitsShown = false;

// Shows videos of the list, the newest first. Each comes before the next of them, since created_at has whole seconds.
function show(videos, before = null) {
  for (const video of [...videos].reverse()) {
    if (!cards.has(video.id)) {
      const card = new Card(video, { onRemix: remix, onError: tell });
      cards.set(video.id, card);
      list.insertBefore(card.element, before ?? firstOlder(video));
    }
    const { element } = cards.get(video.id);
    if (element.isConnected) before = element; // else it was deleted after the list was read
  }
}

function firstOlder(video) {
  return [...list.children].find((element) => cards.get(element.dataset.id).video.created_at < video.created_at) ?? null;
}

function tell(error) {
  status.textContent = error.message;
}

function remix(video) {
  for (const field of form.elements) if (field.name) field.value = '';
  form.elements.prompt.value = video.prompt;
  for (const name of ['num_inference_steps', 'seed', 'guidance_scale', 'guidance_scale_2', 'flow_shift', 'fps', 'negative_prompt', 'step_profile', 'solver']) {
    const field = form.elements[name];
    if (video.settings[name] !== undefined) field.value = video.settings[name];
    if (field.selectedIndex === -1) field.value = ''; // the default, or none that is offered now
  }
  form.elements.size.value = video.size || '';
  form.elements.seconds.value = video.seconds || '';
  form.elements.prompt.focus();
  form.elements.prompt.select();
}

async function load(after) {
  const page = await call('GET', `/v1/videos?limit=20${after ? `&after=${after}` : ''}`);
  show(page.data);
  more.hidden = !page.has_more;
  more.onclick = () => load(page.last_id).catch(tell);
}

// Shows videos that another tab or program requested, and whether the server is ready.
async function look() {
  try {
    const before = [...cards.keys()];
    const page = await call('GET', '/v1/videos?limit=20');
    removeGone(before, page);
    show(page.data);
    showQueue(await call('GET', '/v1/queue'));
    await readLimits();
    const ready = await fetch('/readyz');
    status.textContent = ready.ok ? '' : (await ready.json()).error.message;
  } catch (error) {
    status.textContent = error.status === 401 ? 'a key is needed (under More)' : error.message;
  }
  setTimeout(look, 3000);
}

// Repeats until the limits are known: the server may be away when the page is opened.
async function readLimits() {
  if (limitsShown) return;
  const { limits } = (await call('GET', '/v1/models')).data[0];
  if (limits) showLimits(form, limits);
  limitsShown = Boolean(limits);
}

// Removes cards of videos that were deleted elsewhere; videos older than the list's last one are not checked.
function removeGone(ids, page) {
  const listed = new Set(page.data.map((video) => video.id));
  const oldest = page.has_more ? page.data.at(-1).created_at : -Infinity;
  for (const id of ids) {
    const card = cards.get(id);
    if (listed.has(id) || card.video.created_at <= oldest) continue;
    card.remove();
    cards.delete(id);
  }
}

function showQueue(queue) {
  const facts = [];
  if (queue.paused) facts.push(`The queue is paused${queue.reason ? `: ${queue.reason}` : ''}`);
  if (queue.queued || queue.in_progress) facts.push(`${queue.queued} waiting, ${queue.in_progress} being made`);
  const text = facts.join(' · ');
  if (queueLine.textContent !== text) queueLine.textContent = text; // said aloud only when it changes
  queueLine.classList.toggle('paused', queue.paused);
}

setUpForm(form, (video) => show([video], list.firstChild));
readLimits().catch(() => {});
load().catch(tell).then(() => setTimeout(look, 3000));
