#!/usr/bin/env bash
# client-oauth2 4.3.3 (npm) makes an Invalid Date of a token response that does not say when the token expires.
#
# expires_in is only recommended (RFC 6749, section 5.1), and many servers leave it out. client-oauth2 adds undefined to
# the present time: token.expires is a Date, but not a valid one, and comparing with it is always false. So expired() says
# false for ever, and a program that stores the expiry gets a RangeError from toISOString, or a null from JSON, far
# from where the response was read.
#
# Seen: "expires: Invalid Date", "expired(): false", "as JSON: null", "toISOString: RangeError".
#
# Needs node and npm. It fails if the behaviour is another.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund client-oauth2@4.3.3
cat >look.js <<'JS'
const http = require('http');
const ClientOAuth2 = require('client-oauth2');

const server = http.createServer((_, res) => {
	res.setHeader('Content-Type', 'application/json');
	res.end(JSON.stringify({ access_token: 'a', token_type: 'Bearer' }));
});
server.listen(0, '127.0.0.1', async () => {
	const client = new ClientOAuth2({
		clientId: 'id', clientSecret: 'secret', accessTokenUri: `http://127.0.0.1:${server.address().port}/token`,
	});
	const token = await client.credentials.getToken();
	console.log(`expires: ${token.expires}`);
	console.log(`expired(): ${token.expired()}`);
	console.log(`as JSON: ${JSON.stringify(token.expires)}`);
	try {
		token.expires.toISOString();
	} catch (err) {
		console.log(`toISOString: ${err.name}`);
	}
	process.exit(0);
});
JS
seen=$(node look.js)
echo "$seen"
want=$(printf 'expires: Invalid Date\nexpired(): false\nas JSON: null\ntoISOString: RangeError')
[ "$seen" = "$want" ] || { echo "it is another now"; exit 1; }
