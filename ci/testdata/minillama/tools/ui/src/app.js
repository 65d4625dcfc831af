import { clsx } from 'clsx';

document.body.className = clsx('minillama', { ready: true });
