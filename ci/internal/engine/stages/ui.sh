# The web UI, from the tree's own package-lock.json. /npm holds that lock and an npm cache with
# every tarball it names, so npm asks no registry: this stage has no network. No package's own
# install script runs.
. /stages/stage.sh
export npm_config_cache=/npm npm_config_offline=true npm_config_logs_max=0
export npm_config_audit=false npm_config_fund=false npm_config_update_notifier=false
export CI=1 LLAMA_UI_OUT_DIR=/out/dist LICENCES_OUT=/out/licenses.txt

cp -R /ui /build
cp /npm/package-lock.json /build/
cd /build
npm ci --ignore-scripts
# SvelteKit takes the clock for the UI's version, and the version goes into the script's bytes
# and name: two builds would differ. The sources' digest says the same thing better; a version
# that upstream names itself stands. The wrapper never changes, because Tailwind reads every
# file of this folder.
if [ -f svelte.config.js ]; then
    LLAMA_UI_VERSION=$(cd /ui && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c-16)
    export LLAMA_UI_VERSION
    mv svelte.config.js svelte.config.upstream.js
    cat > svelte.config.js <<'JS'
import upstream from './svelte.config.upstream.js';

const name = process.env.LLAMA_UI_VERSION;
export default { ...upstream, kit: { version: { name }, ...upstream.kit } };
JS
fi
# What the UI is made of travels in the programs, so its licences travel beside them: those of
# the packages whose modules went in, and of what the tree vendors.
: > "$LICENCES_OUT"
if [ -f vite.config.ts ]; then
    cp /stages/ui/vite.config.licences.ts .
    npm run build -- --config vite.config.licences.ts
else
    npm run build
fi
find src -ipath '*vendor*' -iname 'LICEN[CS]E*' 2>/dev/null | sort | while read -r file; do
    printf '\ntools/ui/%s\n\n' "$file"
    cat "$file"
done >> "$LICENCES_OUT"
[ -f "$LLAMA_UI_OUT_DIR/index.html" ] || { echo "npm run build left no index.html in LLAMA_UI_OUT_DIR" >&2; exit 1; }
cd /
finish
