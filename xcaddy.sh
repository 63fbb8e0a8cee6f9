#!/bin/sh
# Builds ./caddy with the bearer module of this checkout, at pinned versions:
# Caddy's is the one in go.mod, every other that go.mod names goes with it.
#
#   ./xcaddy.sh                          builds ./caddy
#   ./xcaddy.sh --with MODULE[@VERSION]  builds it with further modules
#   ./xcaddy.sh release                  builds it so that the same commit, the same Go and the
#                                        same modules give the same bytes, in whatever directory
#   ./xcaddy.sh run                      builds it and runs Caddyfile.example
#   ./xcaddy.sh run ARGS...              builds it and runs ./caddy run ARGS...
set -eu
cd "$(dirname "$0")"

module=github.com/caddy-bearer/caddy-bearer

# Without -trimpath and its tags the build shares its cache with go test, which
# halves the time to a first run. A release has its own.
export XCADDY_GO_BUILD_FLAGS="${XCADDY_GO_BUILD_FLAGS--ldflags '-s -w'}"

build() {
	go tool -modfile=tools/go.mod xcaddy build \
		"$(go list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2)" \
		--output ./caddy --with "$module@v0.0.0" --replace "$module=." "$@"
}

# A binary names the modules in it, and a replaced one by its directory. xcaddy
# makes that absolute, so it writes the build's module only, and go does the rest
# with a relative one. Flags come from here alone, not from the environment.
release() {
	rm -rf .release
	mkdir .release
	TMPDIR="$PWD/.release" XCADDY_SKIP_BUILD=1 build "$@"
	(
		cd .release/buildenv_*
		go mod edit -replace "$module=../.."
		GOFLAGS='' GOWORK=off CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' -o ../../caddy .
	)
	rm -rf .release
}

case ${1-} in
run) shift ;;
release)
	shift
	release "$@"
	exit
	;;
*)
	build "$@"
	exit
	;;
esac
build
[ $# -gt 0 ] || set -- --config Caddyfile.example
exec ./caddy run "$@"
