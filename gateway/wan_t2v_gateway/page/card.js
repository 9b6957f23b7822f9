// One video of the list: its current state, the latest preview, and its actions.

import { call, fileAddress, watch } from './api.js';

const WORDS = { queued: 'waits', in_progress: 'is being made', completed: 'done', failed: 'failed', cancelled: 'cancelled' };
const EXPERTS = { high_noise_expert: 'high-noise expert', low_noise_expert: 'low-noise expert' };

export class Card {
  constructor(video, { onRemix, onError }) {
    Object.assign(this, { video, onRemix, onError, stop: new AbortController() });
    this.element = document.createElement('li');
    this.element.dataset.id = video.id;
    this.draw();
    if (['queued', 'in_progress'].includes(video.status)) {
      watch(video.id, (kind, data) => this.heard(kind, data), this.stop.signal);
    }
    if (video.status === 'in_progress') this.showPicture(`/v1/videos/${video.id}/preview`);
    if (video.status === 'completed') this.showPicture(`/v1/videos/${video.id}/content?variant=thumbnail&redirect=false`);
  }

  draw() {
    const { video } = this;
    this.media ||= Object.assign(document.createElement('div'), { className: 'picture' });
    this.facts = Object.assign(document.createElement('p'), { className: 'facts' });
    this.bar = Object.assign(document.createElement('progress'), { max: 100, value: video.progress });
    this.bar.setAttribute('aria-label', 'progress');
    this.bar.hidden = !['queued', 'in_progress'].includes(video.status);
    const prompt = Object.assign(document.createElement('p'), { className: 'prompt', textContent: video.prompt });
    const error = Object.assign(document.createElement('p'), { className: 'error', textContent: video.error?.message || '' });
    const text = document.createElement('div');
    text.append(prompt, this.facts, this.bar, error, this.actions());
    this.element.replaceChildren(this.media, text);
    this.tell(video.now || {});
  }

  actions() {
    const row = Object.assign(document.createElement('div'), { className: 'actions' });
    const button = (label, act) => {
      const made = Object.assign(document.createElement('button'), { type: 'button', className: 'plain', textContent: label });
      made.addEventListener('click', () => act().catch(this.onError));
      row.append(made);
    };
    const { id, status } = this.video;
    if (status === 'completed') {
      button('Play', () => this.play());
      button('Download', () => this.download());
      button('Remix', async () => this.onRemix(this.video));
    }
    if (['queued', 'in_progress'].includes(status)) button('Cancel', () => call('POST', `/v1/videos/${id}/cancel`));
    else button('Delete', async () => { await call('DELETE', `/v1/videos/${id}`); this.remove(); });
    return row;
  }

  tell(now) {
    const { video } = this;
    const facts = [WORDS[video.status]];
    if (video.status === 'queued' && video.queue) {
      if (video.queue.paused) facts.push('the queue is paused');
      facts.push(video.queue.ahead ? `${video.queue.ahead} ahead` : 'next');
      if (video.queue.wait_s) facts.push(`in about ${Math.round(video.queue.wait_s)} s`);
    }
    if (video.status === 'in_progress') {
      if (now.step) facts.push(`step ${now.step} of ${now.num_inference_steps}`);
      if (now.step && now.step === now.num_inference_steps) facts.push('decoding');
      else if (now.expert) facts.push(EXPERTS[now.expert] || now.expert, `${now.left_s.toFixed(1)} s left`);
      else if (now.stage) facts.push(now.stage);
    }
    if (video.size) facts.push(video.size);
    if (video.status === 'completed') facts.push(`${Number(video.seconds).toFixed(1)} s`, `seed ${video.settings.seed}`);
    this.facts.textContent = facts.join(' · ');
    if (now.percent) this.bar.value = now.percent;
  }

  async heard(kind, data) {
    if (kind === 'deleted') return this.remove();
    if (kind === 'step') {
      if (this.video.status !== 'in_progress') { this.video.status = 'in_progress'; this.draw(); }
      this.tell(data);
      return data.preview ? this.showPicture(`/v1/videos/${this.video.id}/preview`) : undefined;
    }
    if (kind === 'queue') this.video = { ...this.video, status: 'queued', queue: data };
    if (kind === 'stage' && this.video.status === 'in_progress') return undefined;
    if (['completed', 'failed', 'cancelled', 'stage'].includes(kind)) {
      try { this.video = await call('GET', `/v1/videos/${this.video.id}`); } catch (error) { return undefined; }
    }
    this.draw();
    if (kind === 'completed') this.showPicture(`/v1/videos/${this.video.id}/content?variant=thumbnail&redirect=false`);
    return undefined;
  }

  async showPicture(path) {
    try {
      this.show(Object.assign(new Image(), { alt: '', src: await fileAddress(path) }));
    } catch (error) { /* there is none yet */ }
  }

  show(element) {
    if (this.media.src) URL.revokeObjectURL(this.media.src);
    element.className = 'picture';
    this.media.replaceWith(element);
    this.media = element;
  }

  async play() {
    const src = await fileAddress(`/v1/videos/${this.video.id}/content?redirect=false`);
    this.show(Object.assign(document.createElement('video'), { src, controls: true, loop: true, muted: true, autoplay: true }));
    this.media.setAttribute('aria-label', this.video.prompt);
  }

  async download() {
    const href = await fileAddress(`/v1/videos/${this.video.id}/content?redirect=false`);
    Object.assign(document.createElement('a'), { href, download: `${this.video.id}.mp4` }).click();
    setTimeout(() => URL.revokeObjectURL(href), 10000);
  }

  remove() {
    this.stop.abort();
    this.element.remove();
  }
}
