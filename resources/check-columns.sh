#!/bin/sh
# Fails, and prints the lines, if a line of a *.rs, *.sh or *.toml file is over 100 columns. rustfmt
# leaves comments and strings alone. A tab counts as four columns, as .editorconfig says.
set -eu
cd "$(dirname "$0")/.."

# grep counts characters in this locale, and bytes in the C locale.
export LC_ALL=C.UTF-8

find . \( -path ./target -o -path ./.git \) -prune -o \
	-type f \( -name '*.rs' -o -name '*.sh' -o -name '*.toml' \) -print | sort | {
	status=0
	while read -r file; do
		if expand -t 4 "$file" | grep -nE '^.{101}' | sed "s|^|${file#./}:|" | grep .; then
			status=1
		fi
	done
	if [ "$status" = 1 ]; then
		echo "error: the lines above are over 100 columns" >&2
	fi
	exit "$status"
}
