#!/bin/sh
# Installs mdBook, and mdbook-i18n-helpers for the translations, from crates.io into the cache of
# this user, unless they are there. They take some minutes to compile.
set -eu
root=${XDG_CACHE_HOME:-$HOME/.cache}/mini-vmm/book

# install PROGRAM OPTION...: what `cargo install` is told.
install() {
	program=$1
	shift
	if [ -x "$root/bin/$program" ]; then
		return
	fi
	echo "installing $program into $root"
	cargo install --quiet --locked --root "$root" "$@"
}

install mdbook --no-default-features --features search mdbook@0.5.4
install mdbook-gettext mdbook-i18n-helpers@0.4.0
