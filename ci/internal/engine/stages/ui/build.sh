# build.sh runs `npm run build` of the web UI in the current folder, and has Vite write the licence texts of what went
# into it to $LICENCES_OUT: licences.ts goes into the configuration under the name that upstream's own has, since a build
# script may name it, and need not end with Vite.
set -eu
stages=$(cd "$(dirname "$0")" && pwd)

config=
for name in vite.config.js vite.config.mjs vite.config.ts vite.config.cjs vite.config.mts vite.config.cts; do # Vite's order
    if [ -z "$config" ] && [ -f "$name" ]; then config=$name; fi
done
if [ -n "$config" ]; then
    upstream=vite.upstream.${config##*.}
    mv "$config" "$upstream"
    # These words never change the UI: Tailwind reads every file of this folder.
    cat > "$config" <<JS
import upstream from './$upstream';
import { withLicences } from '$stages/licences.ts';

export default withLicences(upstream);
JS
elif node -e 'require.resolve("vite/package.json")' 2> /dev/null; then
    config=vite.config.mjs
    printf '%s\n' "import { withLicences } from '$stages/licences.ts';" '' 'export default withLicences({});' > "$config"
fi
rm -f "$LICENCES_OUT"
npm run build
if [ -n "$config" ] && [ ! -f "$LICENCES_OUT" ]; then
    echo "npm run build did not use $config, so the licences of what went into the web UI are not known" >&2
    exit 1
fi
