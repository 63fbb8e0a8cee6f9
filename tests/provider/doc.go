// Package provider is a fake OAuth provider that tests can script. It serves the behaviour tests, the long runs of a
// fleet, and the benchmarks.
//
// It plays each of the four systems that the module was made for, and a plain RFC 6749 one, as strictly as their
// documentation describes them: a request that the real system would refuse is refused in that system's own words,
// and is remembered as a violation. A test that ends with no violations has therefore shown more than that its
// calls came back with 200.
//
// A [Provider] is both an [http.Handler], for real sockets, and an [http.RoundTripper], for tests of the library
// that want no network and a fake clock. [Start] gives it an address of its own.
//
// # What it can be told
//
// Of its tokens: how long they live (SetLifetime, SetClientLifetime) and what it says of that (SetExpiresIn); that it
// gives the same one again (SetReissue); that some die now (RevokeAccessTokens, RevokeUser, RevokeRefreshTokens and
// others).
//
// Of its refresh tokens: that they rotate (SetRotate). One that comes again after that is an alarm, and its whole grant
// is revoked, access tokens too. That a used one is taken for a while longer (SetGrace), and that all access tokens of a
// grant die together now and then (SetRevokeEvery).
//
// Of its time: how long it thinks before it does what it is asked (SetThinking), whether it notices that a client hangs
// up meanwhile (SetAttentive), and how long its answer is on the way afterwards (SetTokenDelay).
//
// Of its clients: by which method they authenticate (SetClientAuth), who is logged in (SetUser), and what of a person
// Mbanq wants to know (SetLoginHeaders). NewCode, NewRefreshToken and NewAccessToken give what a client would bring from
// elsewhere.
//
// Of single calls: Script, ScriptToken and ScriptAPI queue one [Step] for each call to come. Steps are faults ([Hang],
// [Drop], [Reset], [CutBody], [SlowBody]), answers ([Status], [Malformed], [HTML200], [Redirect], [Huge], [GzipBomb],
// [EarlyAnswer]), refusals in the provider's own words (Unauthorized, [Restricted], [Business]), and functions of the
// test ([Function]). [Committed] does the grant before the fault, and [Always] repeats.
//
// # What it tells
//
// TokenCalls, APICalls and CallsTo list what it was asked and what came of it, to the microsecond; Counts adds up. A run
// of a million calls has those of the API only counted (SetForgetful). Arrivals tells of token requests as they come in,
// and for how long it is going to think about each.
package provider
