// The page: a form, and the list of videos. It speaks the public interface and nothing else.

import { call } from './api.js';
import { Card } from './card.js';
import { setUpForm, showLimits } from './form.js';

const form = document.querySelector('#request');
const list = document.querySelector('#videos');
const status = document.querySelector('#connection');
const more = document.querySelector('#more');
const cards = new Map();

function show(video, place) {
  if (cards.get(video.id)?.element.isConnected) return;
  const card = new Card(video, { onRemix: remix, onError: (error) => { status.textContent = error.message; } });
  cards.set(video.id, card);
  list[place](card.element);
  document.querySelector('#empty').hidden = true;
}

function remix(video) {
  for (const field of form.elements) if (field.name) field.value = '';
  form.elements.prompt.value = video.prompt;
  for (const name of ['num_inference_steps', 'seed', 'guidance_scale', 'guidance_scale_2', 'flow_shift', 'fps', 'negative_prompt']) {
    if (video.settings[name] !== undefined) form.elements[name].value = video.settings[name];
  }
  form.elements.size.value = video.size || '';
  form.elements.seconds.value = video.seconds || '';
  form.elements.prompt.focus();
  form.elements.prompt.select();
}

async function load(after) {
  const page = await call('GET', `/v1/videos?limit=20${after ? `&after=${after}` : ''}`);
  page.data.forEach((video) => show(video, 'append'));
  more.hidden = !page.has_more;
  more.onclick = () => load(page.last_id);
}

// What another tab or program asked for, and whether the server behind is there.
async function look() {
  try {
    const page = await call('GET', '/v1/videos?limit=20');
    page.data.reverse().forEach((video) => show(video, 'prepend'));
    const ready = await fetch('/readyz');
    status.textContent = ready.ok ? '' : (await ready.json()).error.message;
  } catch (error) {
    status.textContent = error.status === 401 ? 'a key is needed (under More)' : error.message;
  }
  setTimeout(look, 3000);
}

setUpForm(form, (video) => show(video, 'prepend'));
call('GET', '/v1/models').then((models) => showLimits(form, models.data[0].limits)).catch(() => {});
load().catch((error) => { status.textContent = error.message; }).then(() => setTimeout(look, 3000));
