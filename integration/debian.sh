#!/bin/sh
# Unpacks Debian's packages of resolvers and nginx below the folder given, each with what it needs in a folder of its own. Nothing is installed and
# no script of a package runs: the tests lay a folder over /usr in a mount namespace (PICKET_DEBIAN names it), and this system stays as it is.
set -eu
[ $# = 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
mkdir -p "$1"
for package in systemd-resolved network-manager resolvconf openresolv dnsmasq-base unbound nginx libnginx-mod-stream; do
	case $package in libnginx-mod-stream) into=$1/nginx ;; *) into=$1/$package ;; esac
	[ ! -e "$into/.done-$package" ] || continue
	archives=$(mktemp -d)
	mkdir "$archives/partial"
	if ! apt-get install -y -q --download-only --no-install-recommends -o "Dir::Cache::archives=$archives" -o APT::Sandbox::User=root "$package"; then
		echo "$0: $package is not to be had: its tests are skipped" >&2
		rm -rf "$archives"
		continue
	fi
	mkdir -p "$into/root"
	for deb in "$archives"/*.deb; do
		[ -e "$deb" ] || continue # all of it is installed
		dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$into/root" --exclude='./usr/share/doc' --exclude='./usr/share/man' --exclude='./usr/share/locale'
	done
	# Where /lib and /sbin are links into /usr, what packages put there belongs below usr.
	for dir in bin sbin lib; do
		if [ -d "$into/root/$dir" ]; then
			mkdir -p "$into/root/usr/$dir"
			cp -a "$into/root/$dir/." "$into/root/usr/$dir"
			rm -rf "${into:?}/root/$dir"
		fi
	done
	rm -rf "$archives"
	touch "$into/.done-$package"
done
