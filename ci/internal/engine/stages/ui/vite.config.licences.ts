// Builds the UI as upstream's own configuration says and writes the licence texts of the packages whose modules
// went into it to LICENCES_OUT. The dev-only packages of package.json (Storybook, Playwright, ESLint…) are not among them.
import upstream from './vite.config';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const IS_LICENCE = /^(licen[cs]e|copying|notice)/i;

function licences(out: string) {
	return {
		apply: 'build' as const,
		generateBundle(this: any) {
			if (this.environment.config.consumer !== 'client') return;
			// The PWA's worker is bundled by a build of its own, from workbox.
			const folders = new Set<string>(readdirSync('node_modules').filter((n) => n.startsWith('workbox-') && n !== 'workbox-build').map((n) => join(process.cwd(), 'node_modules', n)));
			for (const id of this.getModuleIds()) {
				const match = id.match(/^\0?(.*\/node_modules\/(?:@[^/]+\/)?[^/]+)\//);
				if (match && existsSync(join(match[1], 'package.json'))) folders.add(match[1]);
			}
			const texts = new Map<string, string>();
			for (const folder of folders) {
				const { author, license, name, version } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf-8'));
				const files = readdirSync(folder).filter((f) => IS_LICENCE.test(f)).sort();
				const text = files.map((f) => readFileSync(join(folder, f), 'utf-8').trim()).join('\n\n');
				texts.set(`${name} ${version}`, text || `${license}, by ${author?.name ?? author ?? 'its authors'}`);
			}
			const names = [...texts.keys()].sort();
			writeFileSync(out, names.map((n) => `\n${n}\n${'='.repeat(n.length)}\n\n${texts.get(n)}\n`).join(''));
		},
		name: 'licences'
	};
}

export default async (env: unknown) => {
	const config = await (upstream as any)(env);
	return { ...config, plugins: [...config.plugins, licences(process.env.LICENCES_OUT!)] };
};
