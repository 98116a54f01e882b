#!/usr/bin/env bash
# The docs as a site in `site/`: build_site.sh PROGRAM. docs/ with README.md as its first page, CHANGELOG.md, and the
# program's own reference of its commands, is put together in a folder of its own, where mkdocs reads it.
set -euo pipefail
program=$1
mkdocs=${MKDOCS:-mkdocs}
work=build/site
rm -rf "$work" site
mkdir -p "$work"
cp -r docs "$work/docs"
cp README.md "$work/docs/index.md"
cp CHANGELOG.md "$work/docs/changes.md"
# Pages that the text names become links.
sed -i -E 's#`?docs/([a-z]+)\.md`?#[\1](\1.md)#g' "$work"/docs/*.md
cp tools/site.css "$work/docs/site.css"
"$program" man "$work/docs/reference" --format markdown
# The navigation names every command.
commands=$(cd "$work/docs/reference" && ls ./*.md | sed -e 's#^\./##' | grep -v '^index.md$' | sed -e 's#\(.*\)\.md#          - \1: reference/\1.md#')
awk -v commands="$commands" '{ if ($0 ~ /Commands: reference\//) { print "      - Commands:\n          - reference/index.md"; print commands } else print }' \
  mkdocs.yml > "$work/mkdocs.yml"
NO_MKDOCS_2_WARNING=1 "$mkdocs" build --quiet --strict --config-file "$work/mkdocs.yml" --site-dir "$PWD/site"
# Nothing of it may come from elsewhere (links may lead there).
if grep -rlE '(src|href)="https?://[^"]*\.(js|css|woff2?)"|@import url\(.?https?:' site --include='*.html' --include='*.css'; then
  echo "build_site: these pages load something from elsewhere" >&2
  exit 1
fi
echo "built site/index.html"
