#!/bin/sh
# Builds ./caddy with the bearer module of this checkout, at pinned versions:
# Caddy's is the one in go.mod, every other that go.mod names goes with it.
#
#   ./xcaddy.sh                          builds ./caddy
#   ./xcaddy.sh --with MODULE[@VERSION]  builds it with further modules
#   ./xcaddy.sh run                      builds it and runs Caddyfile.example
#   ./xcaddy.sh run ARGS...              builds it and runs ./caddy run ARGS...
set -eu
cd "$(dirname "$0")"

module=github.com/caddy-bearer/caddy-bearer

# Without -trimpath and its tags the build shares its cache with go test, which
# halves the time to a first run. A release sets its own.
export XCADDY_GO_BUILD_FLAGS="${XCADDY_GO_BUILD_FLAGS--ldflags '-s -w'}"

build() {
	go tool -modfile=tools/go.mod xcaddy build \
		"$(go list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2)" \
		--output ./caddy --with "$module@v0.0.0" --replace "$module=." "$@"
}

if [ "${1-}" != run ]; then
	build "$@"
	exit
fi
shift
build
[ $# -gt 0 ] || set -- --config Caddyfile.example
exec ./caddy run "$@"
