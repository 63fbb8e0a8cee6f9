#!/usr/bin/env bash
# simple-oauth2 5.1.0 (npm) believes a member that OAuth does not know before the one that it does.
#
# A token response may have any further members, and a client ignores those that it does not know (RFC 6749, section
# 5.1). expires_in says that the token lives for 60 seconds. Some servers add an expires_at of their own, such as the end
# of the session or of the refresh token. simple-oauth2 takes that for the access token's expiry, whatever expires_in
# says: expired() stays false for decades, and a dead token is used.
#
# Seen: "expires_in alone: expires in 60 s" and "with an expires_at: expires in 2099".
#
# Needs node and npm. It fails if the behaviour is another.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund simple-oauth2@5.1.0
cat >look.js <<'JS'
const http = require('http');
const { ClientCredentials } = require('simple-oauth2');

async function expiry(more) {
	const server = http.createServer((_, res) => {
		res.setHeader('Content-Type', 'application/json');
		res.end(JSON.stringify({ access_token: 'a', token_type: 'Bearer', expires_in: 60, ...more }));
	});
	await new Promise((done) => server.listen(0, '127.0.0.1', done));
	const client = new ClientCredentials({
		client: { id: 'id', secret: 'secret' },
		auth: { tokenHost: `http://127.0.0.1:${server.address().port}` },
	});
	const { token } = await client.getToken({});
	server.close();
	return token.expires_at;
}

(async () => {
	const alone = Math.round((await expiry({}) - Date.now()) / 1000);
	console.log(`expires_in alone: expires in ${alone} s`);
	const other = await expiry({ expires_at: '2099-01-01T00:00:00Z' });
	console.log(`with an expires_at: expires in ${other.getUTCFullYear()}`);
	process.exit(0);
})();
JS
seen=$(node look.js)
echo "$seen"
want=$(printf 'expires_in alone: expires in 60 s\nwith an expires_at: expires in 2099')
[ "$seen" = "$want" ] || { echo "it is another now"; exit 1; }
