package provider

import "time"

// Raw is JSON text that goes into an answer as it stands, whether or not it is JSON: Raw("NaN"), say.
type Raw string

// absent is the type of Absent.
type absent struct{}

// Absent, given to SetExpiresIn, leaves the field out.
var Absent = absent{}

func defaultLifetime(kind Kind) time.Duration {
	switch kind {
	case MondiaPay:
		return 12 * time.Hour
	case MonPay:
		return 0
	case Mondia:
		return 24 * time.Hour
	case Generic, Mbanq:
		return time.Hour
	}
	return time.Hour
}

func defaultClientLifetime(kind Kind) time.Duration {
	if kind == Mondia {
		return 7 * 24 * time.Hour
	}
	return defaultLifetime(kind)
}

// set changes one setting.
func (p *Provider) set(change func(*settings)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.settings)
}

// SetLifetime is how long tokens live that are issued from now on. Zero is for ever.
func (p *Provider) SetLifetime(d time.Duration) {
	p.set(func(s *settings) { s.lifetime, s.clientLifetime = d, d })
}

// SetClientLifetime is SetLifetime for tokens that belong to a client and not to a user.
func (p *Provider) SetClientLifetime(d time.Duration) {
	p.set(func(s *settings) { s.clientLifetime = d })
}

// SetExpiresIn is what answers say in expires_in, whatever the lifetime: any value that JSON can hold, a [Raw], or
// [Absent].
func (p *Provider) SetExpiresIn(v any) {
	p.set(func(s *settings) { s.expiresIn, s.expiresInSet = v, true })
}

// SetTokenDelay holds back the answers of the token endpoints. The grant itself is done before the delay, as it is
// by a provider whose answer is slow or is lost.
func (p *Provider) SetTokenDelay(d time.Duration) {
	p.set(func(s *settings) { s.delay = d })
}

// SetRotate makes every refresh give a new refresh token and spend the old one.
func (p *Provider) SetRotate(on bool) {
	p.set(func(s *settings) { s.rotate = on })
}

// SetGrace has a used refresh token taken for a while longer, as some providers do, but only while nobody has used its
// successor. Zero: not at all.
func (p *Provider) SetGrace(d time.Duration) {
	p.set(func(s *settings) { s.grace = d })
}

// SetRevokeEvery makes all access tokens of a rotating grant die together with each n-th generation, an eighth of their
// lifetime later. The refresh token stays good. Zero: never.
func (p *Provider) SetRevokeEvery(n int) {
	p.set(func(s *settings) { s.revokeEvery = n })
}

// SetThinking bounds how long the token endpoints think before the grant is done, uniformly at random. A client that
// hangs up meanwhile has its refresh token used up all the same, unless the provider is attentive.
func (p *Provider) SetThinking(shortest, longest time.Duration) {
	p.set(func(s *settings) { s.minThinking, s.maxThinking = shortest, longest })
}

// SetAttentive has nothing done for a client that hung up before its grant was done.
func (p *Provider) SetAttentive(on bool) {
	p.set(func(s *settings) { s.attentive = on })
}

// SetReissue makes grants and refreshes give the very token that the holder has already, dead or alive.
func (p *Provider) SetReissue(on bool) {
	p.set(func(s *settings) { s.reissue = on })
}

// SetNested wraps MonPay's token answers in "result", as some of them are.
func (p *Provider) SetNested(on bool) {
	p.set(func(s *settings) { s.nested = on })
}

// SetClientAuth makes a Generic provider insist on one registered method: client_secret_basic, client_secret_post
// or none. By default it takes the first two.
func (p *Provider) SetClientAuth(method string) {
	p.set(func(s *settings) { s.clientAuth = method })
}

// SetUser is who is logged in at a Generic provider's authorization endpoint.
func (p *Provider) SetUser(user string) {
	p.set(func(s *settings) { s.user = user })
}

// SetAnyUser makes a Generic provider's password grant take every username, each with the one password.
func (p *Provider) SetAnyUser(on bool) {
	p.set(func(s *settings) { s.anyUser = on })
}

// SetTokenSize makes access tokens that are issued from now on at least so many bytes long. Zero: as they come.
func (p *Provider) SetTokenSize(bytes int) {
	p.set(func(s *settings) { s.tokenSize = bytes })
}

// SetLoginHeaders names the headers in which Mbanq wants the end user's IP address and device; it does not publish
// their names.
func (p *Provider) SetLoginHeaders(ip, device string) {
	p.set(func(s *settings) { s.ipHeader, s.deviceHeader = ip, device })
}

// SetForgetful has API calls counted and not listed, for tests that make a million of them.
func (p *Provider) SetForgetful(on bool) {
	p.set(func(s *settings) { s.forgetful = on })
}
