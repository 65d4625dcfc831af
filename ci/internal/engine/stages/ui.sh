# The web UI, from the tree's own package-lock.json. /npm holds that lock and an npm cache with
# every tarball it names, so npm asks no registry: this stage has no network. No package's own
# install script runs.
#
# /ui is the npm project, $PROJECT its folder in the tree. $EMBEDDED is the folder, seen from there, whose files $ASSETS
# the server embeds; where that is outside of the project, /embedded is what the tree has there.
. /stages/stage.sh
export npm_config_cache=/npm npm_config_offline=true npm_config_logs_max=0
export npm_config_audit=false npm_config_fund=false npm_config_update_notifier=false
export CI=1 LLAMA_UI_OUT_DIR=/out/dist LICENCES_OUT=/out/licenses.txt

mkdir -p /build /out/dist
cp -R /ui /build/ui
cp /npm/package-lock.json /build/ui/
cd /build/ui
if [ -d /embedded ]; then
    cp -R /embedded "$EMBEDDED"
fi
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
touch /tmp/began
sh /stages/ui/build.sh
find src -ipath '*vendor*' -iname 'LICEN[CS]E*' 2>/dev/null | sort | while read -r file; do
    printf '\n%s/%s\n\n' "$PROJECT" "$file"
    cat "$file"
done >> "$LICENCES_OUT"

# Older releases do not know LLAMA_UI_OUT_DIR. A page that the tree carries is no result.
if [ -z "$(ls -A /out/dist)" ] && [ -d "$EMBEDDED" ]; then
    cp -Rp "$EMBEDDED/." /out/dist/
fi
made=
for asset in $ASSETS; do
    [ -f "/out/dist/$asset" ] || { echo "npm run build left no $asset in $EMBEDDED or LLAMA_UI_OUT_DIR" >&2; exit 1; }
    if [ "/out/dist/$asset" -nt /tmp/began ]; then made=1; fi
done
[ -n "$made" ] || { echo "npm run build wrote none of $ASSETS in $EMBEDDED" >&2; exit 1; }
# gzip, which some releases compress the UI with, keeps the time of a file.
find /out/dist -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
cd /
finish
