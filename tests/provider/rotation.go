package provider

import "time"

// refreshToken is one refresh token that was issued.
type refreshToken struct {
	holder     string
	client     bool
	family     int
	generation int
	used       time.Time // zero: not yet, or it is not rotated
	successors []*refreshToken
	revoked    bool
}

// NewRefreshToken issues a user's refresh token of a new grant, as if they had logged in elsewhere. Its generation is 0.
func (p *Provider) NewRefreshToken(user string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.newRefresh(&refreshToken{holder: user, family: p.newFamily()})
}

// issueRefresh makes the refresh token that goes with an access token. The lock is held, as by all that follows.
func (p *Provider) issueRefresh(t *accessToken) string {
	return p.newRefresh(&refreshToken{
		holder: t.holder, client: t.client, family: t.family, generation: t.generation,
	})
}

func (p *Provider) newRefresh(rt *refreshToken) string {
	value := p.newSecret("", "refresh")
	p.refreshes[value] = rt
	return value
}

// useRefresh looks up a refresh token. If it is one that was rotated away, all that came of its grant is revoked.
func (p *Provider) useRefresh(x *Exchange, value string) *refreshToken {
	rt := p.refreshes[value]
	if rt == nil {
		x.violation("refresh token was never issued")
		x.outcome = Unknown
		return nil
	}
	x.call.Family, x.call.Generation = rt.family, rt.generation
	switch {
	case rt.used.IsZero() && rt.revoked:
		x.outcome = Revoked
		return nil
	case rt.used.IsZero():
		return rt
	case !rt.revoked && p.graceful(rt):
		x.outcome = Reissued
		return rt
	}
	x.outcome = Reused
	if rt.revoked {
		x.outcome = Revoked
	}
	p.alarms++
	x.violation("refresh token reused after rotation")
	p.revokeFamily(rt.family)
	return nil
}

// graceful reports whether a used refresh token is taken once more.
func (p *Provider) graceful(rt *refreshToken) bool {
	if time.Since(rt.used) >= p.settings.grace {
		return false
	}
	for _, s := range rt.successors {
		if !s.used.IsZero() {
			return false
		}
	}
	return true
}

// refresh issues what a refresh token buys: the new access token, and the refresh token to use from now on.
func (p *Provider) refresh(value string, rt *refreshToken) (t *accessToken, next string) {
	t = p.issue(rt.holder, rt.client, rt.family)
	if !p.settings.rotate {
		return t, value
	}
	if rt.used.IsZero() {
		rt.used = time.Now()
	}
	t.generation = rt.generation + 1
	p.retire(t)
	next = p.issueRefresh(t)
	rt.successors = append(rt.successors, p.refreshes[next])
	return t, next
}

// retire sets the time at which all access tokens of a grant die together, where a generation is one that brings this
// about. A token that is issued before that time dies with them.
func (p *Provider) retire(newest *accessToken) {
	if n := p.settings.revokeEvery; n > 0 && newest.generation%n == 0 {
		p.retired[newest.family] = time.Now().Add(p.settings.lifetime / 8)
	}
	end := p.retired[newest.family]
	if !time.Now().Before(end) {
		return
	}
	for _, t := range p.tokens {
		if t.family == newest.family && (t.expires.IsZero() || t.expires.After(end)) {
			t.expires = end
		}
	}
}

// revokeFamily kills all that came of one grant.
func (p *Provider) revokeFamily(family int) {
	for _, t := range p.tokens {
		if t.family == family {
			t.revoked = true
		}
	}
	for _, rt := range p.refreshes {
		if rt.family == family {
			rt.revoked = true
		}
	}
}
